"""TTN: each channel its own share of the bio-batch's statistics (Lim et al. 2023, arXiv 2302.05155).

Of source s and target t, mu = a mu_t + (1 - a) mu_s and var = a var_t + (1 - a) var_s + a (1 - a) (mu_t -
mu_s)^2: mean and variance of the mixture of both. Simplified: the paper finds a by a phase after training, on
augmented training images with their labels, and starts it from how far the gradients of clean and augmented
images agree in each channel. A saved model holds no such shares, so that here they are given, and no --tta
takes this adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from abra_wilds.methods.base import Method
from abra_wilds.tta.bn_state import buffers_put_back, hooked, moments, tracking_norms


@torch.no_grad()
def ttn(
    method: Method, passes: Iterable[Tensor], known: Sequence[Tensor] = (), *, shares: Sequence[Tensor]
) -> list[Tensor]:
    """Logits (N, O) of each pass, by its statistics mixed with the running ones.

    Args:
        method: in evaluation mode, and left as it was.
        passes: images (N, C_in, H, W) of each.
        known: not read.
        shares: a in [0, 1], (C,) of each batch norm in the order of `tracking_norms`.
    """
    norms = zip(tracking_norms(method), shares, strict=True)
    with (
        buffers_put_back(method),
        hooked([m.register_forward_pre_hook(_Interpolating(m, share)) for m, share in norms]),
    ):
        return [method.predict(x) for x in passes]


class _Interpolating:
    """Gives a batch norm, before it runs, its input's statistics mixed with its own, channel by channel."""

    def __init__(self, norm: Any, share: Tensor):
        self.source, self.share = (norm.running_mean, norm.running_var), share

    def __call__(self, norm: Any, args: tuple[Tensor, ...]) -> None:
        norm.running_mean, norm.running_var = interpolated(self.source, moments(args[0]), self.share)


def interpolated(
    source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], share: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of the mixture of two distributions.

    Args:
        source: its mean and variance, (C,) each.
        target: likewise.
        share: of the target, (C,).
    """
    (mean_s, var_s), (mean_t, var_t) = source, target
    between = share * (1 - share) * (mean_t - mean_s) ** 2
    return torch.lerp(mean_s, mean_t, share), torch.lerp(var_s, var_t, share) + between
