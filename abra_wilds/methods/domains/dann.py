"""Domain-adversarial training by gradient reversal (Ganin & Lempitsky, ICML 2015; Ganin et al., JMLR 2016).

The row "Gradient Reversal" of the paper's table 6 is that of Sypetkowski et al. (CVPR-W 2023, arXiv
2301.05768), whose weight, schedule and discriminator are unpublished: these are our settings. Beta is 1 and
gamma follows Ganin & Lempitsky's ramp; the discriminator is that of WILDS.

Read for facts: p-lambda/wilds 4726775 (examples/algorithms/DANN.py,
examples/models/domain_adversarial_network.py). Differences: gamma is 1 throughout there (`--dann_ramp
false`); its rates of featurizer, classifier and discriminator are three absolute numbers that take the place
of --lr, here --lr is the featurizer's and the others are multiples of it; unlabeled images are left out.

Domains are experiments, in which every class occurs. A plate holds 277 of the 1,108 treatments, so a
discriminator of plates (`--groupby_fields experiment plate`) would penalise what tells the classes apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from abra_wilds.config.fields import option
from abra_wilds.functional.grad import reverse_gradient
from abra_wilds.functional.losses import cross_entropies
from abra_wilds.functional.precision import full_precision
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.nets.staged import StagedNet
from abra_wilds.types import INSIDE, Batch, BatchPlan, DataInfo, StepOutput, Target

HIDDEN = 1024


@dataclass(frozen=True)
class DANNConfig(MethodConfig):
    """Strength and course of the reversal; WILDS sets both factors to 10."""

    penalty_weight: float = option(1.0, "beta, weight of the domain loss", at_least=0)
    gamma: float = option(1.0, "factor of the reversed gradient, at the end of its ramp", at_least=0)
    ramp: bool = option(
        True, "let gamma grow with the share p of steps done, by 2 / (1 + exp(-10 p)) - 1 (arXiv 1409.7495)"
    )
    classifier_lr_factor: float = option(
        1.0, "learning rate of the classifier, in multiples of --lr", above=0
    )
    discriminator_lr_factor: float = option(
        1.0, "learning rate of the discriminator, in multiples of --lr", above=0
    )

    def idle(self, mix: str) -> dict[str, str]:
        """Flags of a reversal that reaches no feature, and of a discriminator that learns nothing."""
        found = {} if self.gamma else {"dann_ramp": "--dann_gamma above 0"}
        if not self.penalty_weight:
            names = ("gamma", "ramp", "discriminator_lr_factor")
            found |= {f"dann_{name}": "--dann_penalty_weight above 0" for name in names}
        return found


def make_discriminator(d_feat: int, n_domains: int) -> nn.Sequential:
    """Two hidden layers with batch norm: features (N, D) to domain logits (N, n_domains)."""
    return nn.Sequential(
        nn.Linear(d_feat, HIDDEN),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, n_domains),
    )


class DANN(Method):
    """Cross-entropy, plus a discriminator's loss whose gradient reaches the features reversed.

    The discriminator descends beta times its loss; the featurizer descends cross-entropy minus beta gamma
    times that loss. Its outputs are the bio-batches of the training split, numbered in their order.
    """

    name = "DANN"
    plan = BatchPlan(
        "group", uniform_over_groups=True, mixes=INSIDE, loaders=("group", "standard"), min_groups=2
    )
    Config = DANNConfig
    domain_of: Tensor

    def __init__(self, net: StagedNet, info: DataInfo, cfg: DANNConfig):
        super().__init__(net, info, cfg)
        self.discriminator = make_discriminator(net.d_feat, len(info.train_groups))
        domain_of = torch.full((info.n_groups,), -1)  # cross-entropy refuses the id -1
        domain_of[list(info.train_groups)] = torch.arange(len(info.train_groups))
        self.register_buffer("domain_of", domain_of)

    def forward(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy of the classes plus the weighted one of the domains, after the reversal."""
        f = self.features(batch.x)  # (N, D)
        logits = self.classify(f)  # (N, O)
        gamma = self.gamma()
        with full_precision(f.device.type):
            domains = self.discriminator(reverse_gradient(f, gamma))  # (N, n_dom)
        domain_loss = cross_entropies(domains, Target(self.domain_of[batch.g])).mean()
        loss = cross_entropies(logits, batch.target).mean() + self.cfg.penalty_weight * domain_loss
        return StepOutput(
            loss, logits, {"domain_loss": domain_loss.detach(), "gamma": loss.new_full((), gamma)}
        )

    def gamma(self) -> float:
        """Factor of the reversed gradient at this step."""
        ramp = 2 / (1 + math.exp(-10 * self.context.progress)) - 1 if self.cfg.ramp else 1.0
        return float(self.cfg.gamma * ramp)

    def parameter_groups(self) -> list[tuple[Iterable[nn.Parameter], float]]:
        """Featurizer, classifier and discriminator with their factors on the learning rate."""
        return [
            (self.net.parameters(), 1.0),
            (self.head.parameters(), self.cfg.classifier_lr_factor),
            (self.discriminator.parameters(), self.cfg.discriminator_lr_factor),
        ]
