"""IRMX: a classifier on frozen features, with the penalties of IRMv1 and of V-REx (Chen et al., ICLR 2023).

arXiv 2206.07766; V-REx: Krueger et al., ICML 2021, arXiv 2003.00688. The featurizer is trained by ERM for
--n_epochs; then it is frozen, and the classifier goes on under L = mean_g R_g + p1 mean_g pen_g + p2 Var_g
R_g over the domains g of each batch, with R a domain's mean cross-entropy and pen its IRMv1 penalty. An ERM
run is reused by `--pretrained_model_path .../best_model.pth --n_epochs 0`; `examples/configs/irmx.yaml` is
the published protocol.

Read for facts: LFhase/PAIR a9a434b (WILDS/src/main.py, config.py, models). It publishes the command of
IRMX-PAIR alone; the penalty weights here are its code's defaults. Differences: features are computed once, of
images as evaluation sees them, where it augments images anew in each epoch; Adam is plain in this phase,
there amsgrad (in ERM, --optimizer_kwargs amsgrad=true is the same); the learning rate falls to 0 once, there
its cosine is counted for 18 steps an epoch that has some 60, so that it rises and falls again; batches are
drawn as by WILDS' group loader, there each experiment is dealt out, the last batch of it again and again
until 24 of the 33 are used up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from abra_wilds.functional.losses import cross_entropies, domain_risks
from abra_wilds.functional.precision import full_precision
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.options import method_option, require
from abra_wilds.types import Batch, DataInfo, HeadPhase, InputError, StepOutput

if TYPE_CHECKING:
    from abra_wilds.methods.pair import IRMXPairConfig


@dataclass(frozen=True)
class IRMXConfig(MethodConfig):
    """Weights of the penalties, and the phase on frozen features."""

    p1: float = method_option(1.0, "weight of the IRMv1 penalty")
    p2: float = method_option(1.0, "weight of the variance of the domains' risks (V-REx)")
    head_epochs: int = method_option(90, "passes over the frozen features")
    domains: int = method_option(10, "bio-batches of a batch of features; all where there are fewer")
    domain_rows: int = method_option(72, "rows of each of them")
    head_lr: float = method_option(1e-3, "learning rate of the classifier on frozen features, by Adam")
    head_weight_decay: float = method_option(1e-5, "L2 weight of the classifier on frozen features")

    def __post_init__(self) -> None:
        require(self.p1 >= 0, "irmx_p1", "0 or more", self.p1)
        require(self.p2 >= 0, "irmx_p2", "0 or more", self.p2)
        check_frozen_head(self, "irmx")


def check_frozen_head(cfg: IRMXConfig | IRMXPairConfig, prefix: str) -> None:
    """Raise for settings with which domains cannot be compared on frozen features.

    Args:
        cfg: of the method.
        prefix: of its flags.

    Raises:
        InputError: if one is not allowed.
    """
    require(cfg.head_epochs >= 1, f"{prefix}_head_epochs", "1 or more", cfg.head_epochs)
    require(cfg.domains >= 2, f"{prefix}_domains", "2 or more", cfg.domains)
    require(cfg.domain_rows >= 2, f"{prefix}_domain_rows", "2 or more", cfg.domain_rows)
    require(cfg.head_lr > 0, f"{prefix}_head_lr", "positive", cfg.head_lr)
    require(cfg.head_weight_decay >= 0, f"{prefix}_head_weight_decay", "0 or more", cfg.head_weight_decay)


def erm_step(method: Method, batch: Batch) -> StepOutput:
    """The step of the phase on images: mean cross-entropy of the batch."""
    logits = method.predict(batch.x)  # (N, O)
    return StepOutput(cross_entropies(logits, batch.target).mean(), logits)


def frozen_head(cfg: IRMXConfig | IRMXPairConfig, info: DataInfo) -> HeadPhase:
    """The phase on frozen features: equally many rows of several domains in each batch.

    Raises:
        InputError: if the training split has fewer than two domains.
    """
    known = len(info.train_groups)
    if known < 2:
        raise InputError(
            f"the classifier compares at least 2 bio-batches, and the training split has {known}; "
            "choose finer ones by --groupby_fields, or more data"
        )
    domains = min(cfg.domains, known)
    return HeadPhase(
        epochs=cfg.head_epochs,
        batch_size=domains * cfg.domain_rows,
        n_groups=domains,
        optimizer="Adam",
        rates=(cfg.head_lr,),
        weight_decay=cfg.head_weight_decay,
        standardise=False,
        keep_head=True,
    )


def three_losses(head: nn.Linear, batch: Batch) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Mean risk, mean IRMv1 penalty and unbiased variance of the risks, over the domains of a batch.

    Args:
        head: the classifier.
        batch: x holds features, (N, D), of two domains or more.

    Returns:
        The three, () each, and the logits (N, O).
    """
    with full_precision(batch.x.device.type):
        logits = head(batch.x)  # (N, O)
        risks, penalties = domain_risks(logits, batch.target, batch.groups)  # (G,) each
    return (risks.mean(), penalties.mean(), risks.var()), logits


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
