"""Other batch-norm statistics for a while: the module is left as it was found, bit for bit.

Everything here works in evaluation mode. A batch norm normalises by its buffers there, so that other buffers
are other statistics; momentum, num_batches_tracked, dropout and stochastic depth stay out of it, and
processes do not wait for one another (SyncBatchNorm).

Letters: N images, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from abra_wilds.errors import InputError
from abra_wilds.functional.precision import at_least_fp32
from abra_wilds.functional.stats import instance_moments
from abra_wilds.nets.staged import BATCH_NORMS


def tracking_norms(module: nn.Module) -> list[Any]:
    """The batch norms that have running statistics."""
    return [m for m in module.modules() if isinstance(m, BATCH_NORMS) and m.running_mean is not None]


@contextmanager
def buffers_put_back(module: nn.Module) -> Iterator[None]:
    """Whatever statistics batch norms hold inside, they hold their own again afterwards."""
    norms = tracking_norms(module)
    own = [(m.running_mean, m.running_var) for m in norms]
    try:
        yield
    finally:
        for m, (mean, var) in zip(norms, own, strict=True):
            m.running_mean, m.running_var = mean, var


@contextmanager
def statistics_of_input(module: nn.Module, prior: float = 0.0) -> Iterator[None]:
    """Inside, each batch norm takes its input's statistics before it normalises; the last ones stay.

    With a prior M they are mixed with those it held at the start: mu = (M mu_s + N mu_t) / (M + N), and var
    alike (Schneider et al. 2020, arXiv 2006.16971). var_t divides by N h w as training mode does and
    var_s is the unbiased one that evaluation mode uses, so that M = 0 is training mode and M = inf evaluation
    mode, each exactly; the reference implementation takes both unbiased, and its M = 0 is not quite training
    mode. A batch norm sees what the mixed ones before it made.

    Args:
        module: in evaluation mode, inside `buffers_put_back`.
        prior: M, in images.

    Raises:
        InputError: for an input with one value a channel, which has no spread.
    """
    norms = tracking_norms(module)
    with hooked([m.register_forward_pre_hook(Mixing(m, prior).before) for m in norms]):
        yield


@contextmanager
def hooked(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    """Hooks stay inside, where compiled parts run uncompiled, because compiled code calls none made later."""
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for hook in hooks:
            hook.remove()


class Mixing:
    """Gives a batch norm, before it runs, the statistics of its input mixed with those it has now."""

    def __init__(self, norm: Any, prior: float):
        self.mean, self.var, self.prior = norm.running_mean, norm.running_var, prior

    def before(self, norm: Any, args: tuple[Tensor, ...]) -> None:
        """The hook of one pass."""
        refuse_one_value(args[0])
        self(norm, *image_moments(args[0]))

    def __call__(self, norm: Any, m: Tensor, v: Tensor) -> None:
        """Set the buffers from means and biased variances of n images, (n, C) each."""
        mean, var = pooled_moments(m, v)
        n = m.shape[0]  # len() would fix it in an exported graph
        share = 1.0 if math.isinf(self.prior) else self.prior / (self.prior + n)
        norm.running_mean = torch.lerp(mean.to(self.mean.dtype), self.mean, share)  # exact at both ends
        norm.running_var = torch.lerp(var.to(self.var.dtype), self.var, share)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, (C,) each, float32 or better.

    Args:
        x: (N, C) or (N, C, ...).

    Raises:
        InputError: for one value a channel.
    """
    refuse_one_value(x)
    return pooled_moments(*image_moments(x))


def pooled_moments(m: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (C,) each, of all images, whose own are (n, C) each."""
    between, mu = torch.var_mean(m, dim=0, correction=0)
    return mu, v.mean(0) + between


def refuse_one_value(x: Tensor) -> None:
    """Raise where a channel of x (N, C, ...) has one value.

    Raises:
        InputError: with what to do.
    """
    if x.numel() == x.shape[1]:
        raise InputError(
            "test-time adaptation got one image whose feature map is a single pixel, and one value has no "
            "spread; raise --tta_min to 2 or more"
        )


def image_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every image and channel, (N, C) each, float32 or better.

    Args:
        x: (N, C) or (N, C, ...).
    """
    return instance_moments(at_least_fp32(x).reshape(*x.shape[:2], -1, 1))
