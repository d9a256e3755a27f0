"""What DSU, MixStyle and AdvStyle share: where they act, how often, and in which precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from abra_wilds.config.fields import require
from abra_wilds.dist import broadcast
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.nets.staged import TAP_POINTS

MuSigma = tuple[Tensor, Tensor]


def require_points(at: Sequence[str], flag: str) -> None:
    """Raise unless the insertion points are distinct and at least one.

    Raises:
        InputError: if not.
    """
    require(0 < len(at) == len(set(at)), flag, "distinct insertion points, at least one", tuple(at))


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
