"""Invariant risk minimisation, IRMv1 (Arjovsky et al. 2019, arXiv 1907.02893).

Read for facts: p-lambda/wilds 4726775 (examples/algorithms/IRM.py). Differences: the optimiser's moments are
cleared in place at the annealing step, so the learning-rate schedule goes on (there it is lost, as
`wilds_bug_compat` has it); the step count is part of the state dict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from abra_wilds.config.fields import option
from abra_wilds.functional.losses import cross_entropies, irm_penalty
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.nets.staged import StagedNet
from abra_wilds.types import INSIDE, Batch, BatchPlan, DataInfo, StepOutput


@dataclass(frozen=True)
class IRMConfig(MethodConfig):
    """Weights of the penalty; defaults are those of WILDS for rxrx1."""

    lam: float = option(1.0, "weight of the IRM penalty after annealing", at_least=0, name="irm_lambda")
    penalty_anneal_iters: int = option(
        500, "steps during which the IRM penalty weighs 1", at_least=0, name="irm_penalty_anneal_iters"
    )
    wilds_bug_compat: bool = option(
        False, "keep the learning rate at --lr from the annealing step on, as WILDS' own IRM does"
    )


class IRM(Method):
    """Mean over domains of risk plus penalty: its squared gradient by a dummy scale of the logits."""

    name = "IRM"
    plan = BatchPlan("group", uniform_over_groups=True, mixes=INSIDE, loaders=("group",), min_group_rows=2)
    Config = IRMConfig

    def __init__(self, net: StagedNet, info: DataInfo, cfg: IRMConfig):
        super().__init__(net, info, cfg)
        self.updates = 0

    def forward(self, batch: Batch) -> StepOutput:
        """Mean domain risk plus the weighted mean penalty; weight 1 before the annealing step."""
        logits = self.predict(batch.x)  # (N, O)
        scale = torch.ones((), dtype=logits.dtype, device=logits.device, requires_grad=True)
        losses = cross_entropies(scale * logits, batch.target)  # (N,)
        domains = [losses[rows] for rows in batch.groups]
        risk = torch.stack([d.mean() for d in domains]).mean()
        penalty = torch.stack([irm_penalty(d, scale) for d in domains]).mean()

        annealed = self.updates >= self.cfg.penalty_anneal_iters
        at_annealing = self.updates == self.cfg.penalty_anneal_iters
        self.updates += 1
        loss = risk + (self.cfg.lam if annealed else 1.0) * penalty
        return StepOutput(loss, logits, {"penalty": penalty.detach()}, fresh_optimizer=at_annealing)

    @property
    def schedule_lost(self) -> bool:
        """True after annealing under `wilds_bug_compat`: WILDS' scheduler then drives an old optimiser."""
        return bool(self.cfg.wilds_bug_compat) and self.updates >= self.cfg.penalty_anneal_iters

    def get_extra_state(self) -> dict[str, Any]:
        """The step count, a host number so that reading it never waits for the device."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over a saved step count."""
        self.updates = int(state["updates"])
