"""AdvBayes: adversarial Bayesian augmentation, ABA (Cheng et al., ICCV 2023, arXiv 2307.09520).

Read for facts: shengcheng/ABA affb675, which has no licence; only its script for digits is released. For
every batch a small convolutional network with Gaussian weights is drawn (one kernel size for each layer),
its posterior phi climbs

    CE(h(g(x)), y) + beta KL(q_phi || prior)

for some steps of Adam while the classifier h stands still, and h then learns

    (1 - c) CE(h(x), y) + c / 3 sum_k KL(p_k || M),   M = clamp(mean of the p_k, 1e-4, 1)

from p_0 on the images and p_1, p_2 on pictures by two draws from the posterior that climbed. The sign of the
KL term is the code's, which adds it to what is maximised and so pushes the posterior from the prior. An
evidence bound would subtract it, which a negative beta does; the paper's text has not been compared.

Differences from that code:

- All layers climb; there the hidden ones sit in a plain list that the optimiser does not see. Adam starts
  again with each posterior; there its moments survive from one batch's weights to the next's.
- The classifier stays in training mode and its batch norms normalise each view by the view's own batch;
  their running statistics see clean images alone. There it is in evaluation mode from the first
  adversarial batch of an epoch on.
- Any number of image channels; no clamp to an image range, which self-standardised images do not have.
  Instead the augmenter's output is standardised as every image is: without either its scale grows with
  each layer.

The hyper-parameters are that script's: RxRx1's are unpublished, and these were not tuned. With them a
weight moves by about adv_steps * adv_lr = 5e-5, against a posterior standard deviation of 0.31, so the
climb changes next to nothing and what acts is the random network; a larger --advbayes_adv_lr changes
that.

Arithmetic, in forward passes F of the backbone, ERM being 3: 2 adv_steps for the climb, which needs no
gradient of theta, and 9 for three views with gradients, so 29 against 3 by default. An augmenter pass
costs 1.5e9 multiplications for an image of 3 x 256 x 256 on average over kernel sizes, a quarter of
ResNet-50's F; there are 3 adv_steps + 2 of them. Memory is that of three batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abra_wilds.config.fields import option
from abra_wilds.functional.bayes import adam_ascent, consistency, reparametrised
from abra_wilds.functional.losses import cross_entropies
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.nets.augmenter import Augmenter, draw_augmenter
from abra_wilds.nets.staged import bn_buffers_kept
from abra_wilds.types import Batch, StepOutput


@dataclass(frozen=True)
class AdvBayesConfig(MethodConfig):
    """The values of ABA's released script for digits."""

    pre_epochs: int = option(5, "epochs of plain ERM at first", at_least=0)
    adv_steps: int = option(10, "steps of Adam by which the augmenter climbs, for each batch", at_least=0)
    adv_lr: float = option(5e-6, "learning rate of the augmenter", above=0)
    c: float = option(0.75, "weight of consistency against cross-entropy", at_least=0, at_most=1)
    beta: float = option(
        1.0, "weight of the KL to the prior in what the augmenter maximises; negative holds it near the prior"
    )
    depth: int = option(4, "hidden layers of the augmenter", at_least=0)

    def idle(self, mix: str) -> dict[str, str]:
        """Flags of a climb of no steps, or of an augmenter that is never drawn."""
        if not self.c:
            names = ("pre_epochs", "adv_steps", "adv_lr", "beta", "depth")
            return {f"advbayes_{name}": "--advbayes_c above 0" for name in names}
        needs = "--advbayes_adv_steps 1 or more"
        return {} if self.adv_steps else {"advbayes_adv_lr": needs, "advbayes_beta": needs}

    def first_epochs(self) -> dict[str, int]:
        """Those of plain ERM."""
        return {"advbayes_pre_epochs": self.pre_epochs} if self.c else {}


class AdvBayes(Method):
    """Agree on images and on two pictures of them by a random network that climbed the classifier's loss."""

    name = "AdvBayes"
    plain_forward = False
    preset: ClassVar[str] = "paper"
    Config = AdvBayesConfig
    cfg: AdvBayesConfig

    @property
    def scalable(self) -> bool:
        """No: the climb differentiates the backbone by the augmenter's weights."""
        return False

    def forward(self, batch: Batch) -> StepOutput:
        """Cross-entropy, and after the first epochs the consistency of three views."""
        c = self.cfg.c
        plain = not c or self.context.epoch < self.cfg.pre_epochs
        views, logs = ([], {}) if plain else self.views(batch)
        logits = self.predict(batch.x)  # (N, O)
        loss = cross_entropies(logits, batch.target).mean()
        if views:
            with bn_buffers_kept(self.net):
                others = [self.predict(view) for view in views]
            with full_precision(logits.device.type):
                agree = consistency([logits, *others])
            loss = (1 - c) * loss + c * agree
            logs |= {"consistency": agree.detach()}
        return StepOutput(loss, logits, logs)

    def views(self, batch: Batch) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Two pictures (N, C, H, W) of the batch by draws from a posterior that climbed; and logs."""
        augmenter = draw_augmenter(batch.x.shape[1], self.cfg.depth)
        phi, logs = self.climb(batch, augmenter, augmenter.fresh(at_least_fp32(batch.x)))
        with torch.no_grad():
            return [self.picture(batch.x, augmenter, phi) for _ in range(2)], logs

    def climb(self, batch: Batch, augmenter: Augmenter, phi: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The posterior phi (2, P) after the adversary's steps; theta and its gradients are left alone."""
        moments = torch.zeros_like(phi), torch.zeros_like(phi)
        found = []
        with bn_buffers_kept(self.net), torch.enable_grad():
            for t in range(1, self.cfg.adv_steps + 1):
                phi.requires_grad_()
                logits = self.predict(self.picture(batch.x, augmenter, phi))  # (N, O)
                with full_precision(phi.device.type):
                    adv = cross_entropies(logits, batch.target).mean()
                    gain = adv + self.cfg.beta * augmenter.kl(phi)
                    (gradient,) = torch.autograd.grad(gain, phi)
                    phi, moments = adam_ascent(phi.detach(), gradient, moments, t, self.cfg.adv_lr)
                found.append(adv.detach())
        return phi, {"L_adv": found[0], "L_adv_after": found[-1]} if found else {}

    def picture(self, x: Tensor, augmenter: Augmenter, phi: Tensor) -> Tensor:
        """Images (N, C, H, W) through the augmenter with weights drawn from phi."""
        with full_precision(x.device.type):
            return augmenter(at_least_fp32(x), reparametrised(phi))
