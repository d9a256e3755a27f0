"""Deep CORAL for domain generalisation (Sun & Saenko, ECCV-W 2016).

Read for facts: p-lambda/wilds 4726775 (examples/algorithms/deepCORAL.py). The penalty is the same mean over
pairs of domains, computed in time linear in their number.
"""

from __future__ import annotations

from dataclasses import dataclass

from abra_wilds.config.fields import option
from abra_wilds.functional.losses import coral, cross_entropies
from abra_wilds.functional.precision import full_precision
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.types import INSIDE, Batch, BatchPlan, StepOutput


@dataclass(frozen=True)
class DeepCORALConfig(MethodConfig):
    """Weight of the alignment; the default is that of WILDS for rxrx1."""

    penalty_weight: float = option(
        0.1, "weight of the CORAL penalty", at_least=0, name="coral_penalty_weight"
    )


class DeepCORAL(Method):
    """Cross-entropy plus the distance of feature means and covariances between domains."""

    name = "deepCORAL"
    plan = BatchPlan(
        "group",
        uniform_over_groups=True,
        mixes=INSIDE,
        loaders=("group",),
        min_groups=2,
        min_group_rows=2,
    )
    Config = DeepCORALConfig

    def forward(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy plus the weighted penalty on pooled features."""
        f = self.features(batch.x)  # (N, D)
        logits = self.classify(f)  # (N, O)
        with full_precision(f.device.type):
            penalty = coral(f, batch.groups)
        loss = cross_entropies(logits, batch.target).mean() + self.cfg.penalty_weight * penalty
        return StepOutput(loss, logits, {"penalty": penalty.detach()})
