"""IRMX: a classifier on frozen features, with the penalties of IRMv1 and of V-REx (Chen et al., ICLR 2023).

arXiv 2206.07766; V-REx: Krueger et al., ICML 2021, arXiv 2003.00688. The featurizer is trained by ERM for
--n_epochs; then it is frozen, and the classifier goes on under L = mean_g R_g + p1 mean_g pen_g + p2 Var_g
R_g over the domains g of each batch, with R a domain's mean cross-entropy and pen its IRMv1 penalty. An ERM
run is reused by `--pretrained_model_path .../best_model.pth --n_epochs 0`; `abra_wilds/recipes/irmx.yaml` is
the published protocol.

Read for facts: LFhase/PAIR a9a434b (WILDS/src/main.py, config.py, models). It publishes the command of
IRMX-PAIR alone; the penalty weights here are its code's defaults. Differences: features are computed once, of
images as evaluation sees them, where it augments images again in each epoch; Adam is plain in this phase,
there amsgrad (in ERM, --optimizer_kwargs amsgrad=true is the same); the learning rate falls to 0 once, there
its cosine is counted for 18 steps an epoch that has some 60, so that it rises and falls again; batches are
drawn as by WILDS' group loader, there each experiment is dealt out, the last batch of it again and again
until 24 of the 33 are used up.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from abra_wilds.config.fields import option
from abra_wilds.methods.base import Method
from abra_wilds.methods.domains.frozen import (
    FrozenHeadConfig,
    erm_step,
    frozen_head,
    three_losses,
)
from abra_wilds.types import Batch, HeadPhase, StepOutput


@dataclass(frozen=True)
class IRMXConfig(FrozenHeadConfig):
    """Weights of the penalties, and the phase on frozen features."""

    p1: float = option(1.0, "weight of the IRMv1 penalty", at_least=0)
    p2: float = option(1.0, "weight of the variance of the domains' risks (V-REx)", at_least=0)


class IRMX(Method):
    """ERM on images, then a classifier on frozen features under the sum of two invariance penalties."""

    name = "IRMX"
    Config = IRMXConfig

    def forward(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy, as in ERM."""
        return erm_step(self, batch)

    def head_phase(self) -> HeadPhase:
        """Adam over batches of several domains."""
        return frozen_head(self.cfg, self.info)

    def head_step(self, head: nn.Linear, batch: Batch) -> StepOutput:
        """Mean domain risk plus the weighted penalties."""
        (risk, penalty, variance), logits = three_losses(head, batch)
        loss = risk + self.cfg.p1 * penalty + self.cfg.p2 * variance
        return StepOutput(loss, logits, {"penalty": penalty.detach(), "variance": variance.detach()})
