"""IRMX (PAIR opt): ERM, IRMv1 and V-REx as three objectives, steered to a preferred trade-off.

Chen et al., ICLR 2023, arXiv 2206.07766 (PAIR-o); the weights are those of EPO (Mahapatra & Rajan, ICML
2020), see functional/pareto.py. Phases, batches and what differs there are those of `irmx.py`;
`abra_wilds/recipes/irmx_pair.yaml` is the published protocol.

Read for facts: LFhase/PAIR a9a434b (WILDS/src/pair.py, WILDS/scripts/rxrx.sh: preference choice 3, negative
penalties times -1). Further differences: the linear programme is solved by HiGHS, there by GUROBI, and is
scaled to 1 first, because its numbers lie below a solver's tolerance otherwise; a loss of exactly 0 counts as
the smallest positive number, there its logarithm is infinite; losses that are not finite get the preference
as weights, as an unsolvable programme does.

Each step of the classifier waits for the device once: three losses and nine inner products go to the host,
where the programme is solved in about two milliseconds. The phase on images never does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from abra_wilds.config.fields import option, require
from abra_wilds.functional.pareto import pareto_weights
from abra_wilds.methods.base import Method
from abra_wilds.methods.domains.frozen import (
    FrozenHeadConfig,
    erm_step,
    frozen_head,
    three_losses,
)
from abra_wilds.types import Batch, HeadPhase, StepOutput

NAMES = ("erm", "irm", "vrex")


@dataclass(frozen=True)
class IRMXPairConfig(FrozenHeadConfig):
    """The preferred trade-off, and the phase on frozen features."""

    preference: tuple[float, ...] = option(
        (1e-12, 1e-4, 1 - 1e-12 - 1e-4),
        "r, how much each of ERM, IRMv1 and V-REx counts: balanced losses are proportional to 1 / r",
        above=0,
    )
    eps: float = option(1e-4, "imbalance (a divergence) up to which losses count as balanced", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        three = len(self.preference) == len(NAMES)
        require(three, "irmx_pair_preference", "three positive numbers", self.preference)


def solve_weights(losses: Tensor, gradients: Tensor, preference: Tensor, eps: float) -> Tensor:
    """`pareto_weights` of tensors on any device, by one transfer to the host and one back.

    Args:
        losses: (m,), without gradient.
        gradients: G, (m, P).
        preference: (m,) float64, on the host.
        eps: imbalance up to which losses count as balanced.

    Returns:
        (m,), like losses.
    """
    host = torch.cat([losses[:, None], gradients @ gradients.T], dim=1).cpu().double().numpy()
    return losses.new_tensor(pareto_weights(host[:, 0], host[:, 1:], preference.numpy(), eps))


class IRMXPair(Method):
    """ERM on images, then a classifier on frozen features by Pareto-optimal steps for three losses."""

    name = "IRMX-PAIR"
    Config = IRMXPairConfig

    def forward(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy, as in ERM."""
        return erm_step(self, batch)

    def head_phase(self) -> HeadPhase:
        """Adam over batches of several domains."""
        return frozen_head(self.cfg, self.info)

    def head_step(self, head: nn.Linear, batch: Batch) -> StepOutput:
        """The losses, weighted as their gradients by the classifier ask for; the weights are constants."""
        (risk, penalty, variance), logits = three_losses(head, batch)
        # The programme needs positive losses, and IRMv1's estimate of a square can be negative.
        losses = torch.stack([risk, penalty.abs(), variance])
        weights = list(head.parameters())
        gradients = torch.stack(
            [
                torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, retain_graph=True)])
                for loss in losses
            ]
        )  # (3, P)
        preference = torch.tensor(self.cfg.preference, dtype=torch.float64)
        alpha = solve_weights(losses.detach(), gradients, preference, self.cfg.eps)
        logs = {f"alpha_{name}": a for name, a in zip(NAMES, alpha, strict=True)}
        logs |= {"penalty": penalty.detach(), "variance": variance.detach()}
        return StepOutput((alpha * losses).sum(), logits, logs)
