"""A method from outside the package: V-REx (Krueger et al., ICML 2021), with its flag, by the same command.

python examples/add_a_method.py --algorithm VREx --root_dir demo --pretrained false --n_groups_per_batch 4
"""

import sys
from dataclasses import dataclass

import torch

from abra_wilds import METHODS
from abra_wilds.commands.train import main
from abra_wilds.config.fields import option
from abra_wilds.functional.losses import cross_entropies
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.types import Batch, BatchPlan, StepOutput


@dataclass(frozen=True)
class VRExConfig(MethodConfig):
    """Weight of the variance of risks."""

    beta: float = option(1.0, "weight of the variance of the domains' risks", at_least=0)


class VREx(Method):
    """Mean of the domains' risks plus beta times their variance."""

    name = "VREx"
    plan = BatchPlan("group", uniform_over_groups=True, loaders=("group",), min_groups=2)
    Config = VRExConfig

    def forward(self, batch: Batch) -> StepOutput:
        """Mean risk plus the weighted unbiased variance over the batch's domains."""
        logits = self.predict(batch.x)  # (N, O)
        losses = cross_entropies(logits, batch.target)  # (N,)
        risks = torch.stack([losses[rows].mean() for rows in batch.groups])  # (G,)
        penalty = risks.var()
        return StepOutput(risks.mean() + self.cfg.beta * penalty, logits, {"penalty": penalty.detach()})


METHODS[VREx.name] = VREx

if __name__ == "__main__":
    sys.exit(main())
