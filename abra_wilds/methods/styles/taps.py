"""What DSU, MixStyle and AdvStyle share: where they act, how often, and in which precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abra_wilds.config.fields import option
from abra_wilds.dist import broadcast
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.methods.base import MethodConfig
from abra_wilds.nets.staged import TAP_POINTS

MuSigma = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class TapConfig(MethodConfig):
    """Where statistics of feature maps are changed."""

    at: tuple[str, ...] = option(
        TAP_POINTS,
        "insertion points; conv1 is the stem's first convolution, stem what leaves its max-pooling",
        choices=TAP_POINTS,
        distinct=True,
    )
    eps: float = option(1e-6, "guard inside the roots of deviation and spread", above=0)


def in_order(at: Sequence[str]) -> tuple[str, ...]:
    """Insertion points as the network meets them, so that draws do not depend on how they were listed."""
    return tuple(sorted(at, key=TAP_POINTS.index))


def uniform_draws(n: int, common: bool = False) -> list[float]:
    """Numbers in [0, 1) that the host decides by; drawn on the CPU, so that it never waits for a device.

    Args:
        n: how many.
        common: rank 0's, so that all processes decide alike.
    """
    draws = torch.rand(n)
    found: list[float] = (broadcast(draws) if common else draws).tolist()
    return found


def noise_like(mu: Tensor) -> MuSigma:
    """Standard normal noise for mean and deviation of every image and channel, (N, C) each."""
    return torch.randn_like(mu), torch.randn_like(mu)


def tap(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of a map (N, C, h, w) that sees float32 or better and hands back what type it was given."""

    def tapped(X: Tensor) -> Tensor:
        with full_precision(X.device.type):
            return f(at_least_fp32(X)).to(X.dtype)

    return tapped
