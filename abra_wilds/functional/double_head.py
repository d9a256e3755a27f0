"""The loss of two heads on one embedding (Wu et al. 2022, arXiv 2203.00332)."""

from __future__ import annotations

from torch import Tensor

from abra_wilds.functional.losses import arcface, cross_entropies
from abra_wilds.types import Target


def double_head(
    logits: Tensor, e: Tensor, V: Tensor | None, target: Target, *, k: float, margin: float, scale: float
) -> Tensor:
    """(1 - k) CE + k Arc / 2, batch mean; the half is in the reference code alone.

    Args:
        logits: (N, O) of the cross-entropy head.
        e: (N, E) embedding.
        V: (O, E) class directions of ArcFace; None leaves the term out, for k = 0.
        target: of N images.
        k: weight of ArcFace.
        margin: m in radians.
        scale: s.
    """
    loss = (1 - k) * cross_entropies(logits, target).mean()
    return loss if V is None else loss + k * arcface(e, V, target, margin, scale).mean() / 2
