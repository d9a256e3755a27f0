"""Group distributionally robust optimisation (Sagawa et al., ICLR 2020).

Read for facts: p-lambda/wilds 4726775 (examples/algorithms/groupDRO.py). Difference: the domain weights are
part of the state dict.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abra_wilds.config.fields import option
from abra_wilds.dist import sum_across_ranks
from abra_wilds.functional.losses import cross_entropies
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.nets.staged import StagedNet
from abra_wilds.types import INSIDE, Batch, BatchPlan, DataInfo, StepOutput


@dataclass(frozen=True)
class GroupDROConfig(MethodConfig):
    """Step size of the domain weights; the default is that of WILDS."""

    step_size: float = option(
        0.01,
        "eta of the exponentiated gradient on the domain weights",
        at_least=0,
        name="group_dro_step_size",
    )


def group_means(values: Tensor, g: Tensor, n_groups: int, everywhere: bool = False) -> Tensor:
    """Mean of the values of each group, 0 where a group is absent.

    Args:
        values: (N,).
        g: (N,) int64 group ids.
        n_groups: length of the result.
        everywhere: over the batches of all processes; without a gradient.
    """
    columns = torch.stack([values, torch.ones_like(values)], 1)  # (N, 2)
    totals = values.new_zeros(n_groups, 2).index_add(0, g, columns)  # (n_groups, 2)
    sums, counts = (sum_across_ranks(totals) if everywhere else totals).unbind(1)
    return sums / counts.clamp(min=1)


class GroupDRO(Method):
    """Domain losses weighted by q, which moves towards the domains that are worst."""

    name = "groupDRO"
    plan = BatchPlan("standard", uniform_over_groups=True, mixes=INSIDE, needs_uniform=True)
    Config = GroupDROConfig
    q: Tensor

    def __init__(self, net: StagedNet, info: DataInfo, cfg: GroupDROConfig):
        super().__init__(net, info, cfg)
        q = torch.zeros(info.n_groups)
        q[list(info.train_groups)] = 1 / len(info.train_groups)
        self.register_buffer("q", q)

    def forward(self, batch: Batch) -> StepOutput:
        """q-weighted sum of domain losses; in training q moves first, by the detached losses."""
        logits = self.predict(batch.x)  # (N, O)
        each = cross_entropies(logits, batch.target)  # (N,)
        losses = group_means(each, batch.g, self.info.n_groups)  # (G_all,)
        if self.training:
            self.reweight(group_means(each.detach(), batch.g, self.info.n_groups, everywhere=True))
        # Not a dot product: autocast would compute that in half precision.
        return StepOutput((losses * self.q).sum(), logits, {"max_group_weight": self.q.max()})

    @torch.no_grad()
    def reweight(self, losses: Tensor) -> None:
        """q_g <- q_g exp(eta l_g) / Z, with losses (G_all,)."""
        q = self.q * (self.cfg.step_size * losses).exp()
        self.q.copy_(q / q.sum())
