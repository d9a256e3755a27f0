"""ERM on images, then a classifier that compares domains on frozen features: IRMX and IRMX-PAIR."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from abra_wilds.config.fields import option
from abra_wilds.functional.losses import cross_entropies, domain_risks
from abra_wilds.functional.precision import full_precision
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.types import Batch, DataInfo, HeadPhase, InputError, StepOutput


@dataclass(frozen=True)
class FrozenHeadConfig(MethodConfig):
    """The phase on frozen features."""

    head_epochs: int = option(90, "passes over the frozen features", at_least=1)
    domains: int = option(10, "bio-batches of a batch of features; all where there are fewer", at_least=2)
    domain_rows: int = option(72, "rows of each of them", at_least=2)
    head_lr: float = option(1e-3, "learning rate of the classifier on frozen features, by Adam", above=0)
    head_weight_decay: float = option(1e-5, "L2 weight of the classifier on frozen features", at_least=0)


def erm_step(method: Method, batch: Batch) -> StepOutput:
    """The step of the phase on images: mean cross-entropy of the batch."""
    logits = method.predict(batch.x)  # (N, O)
    return StepOutput(cross_entropies(logits, batch.target).mean(), logits)


def frozen_head(cfg: FrozenHeadConfig, info: DataInfo) -> HeadPhase:
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
