"""UnMix-TNS: statistics of each image among K components of them (Tomar et al. 2024, arXiv 2401.08328).

A batch norm starts with K = 16 components around its training statistics, mu_k = mu + sqrt(a) sigma z_k and
sigma_k^2 = (1 - a) sigma^2, a = 1/2, with random z_k. Image b belongs to component k by p_bk, the softmax
over k of cos(mu_b, mu_k) / 0.07. It is normalised by the mixture of (1 - p_bk) (mu_k, sigma_k^2) + p_bk
(mu_b, sigma_b^2) over k; then components move by the mean over images of p_bk ((mu_b, sigma_b^2) - (mu_k,
sigma_k^2)), times 1 - 0.9^(N / 64). Every bio-batch starts from the trained statistics.

Read for facts: the authors' page and released code, whose constants are these; batch norms of vectors keep
their statistics there too. Difference: theirs draws z_k ~ N(0, K / (K - 1)), so that the mixture of
components has the trained statistics on average. The mean of 16 draws is off by sqrt(a / 15) sigma, which
small networks do not survive. Ours have mean 0 and variance 1 over k: the mixture has the trained statistics
exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.functional.stats import instance_moments
from abra_wilds.methods.base import Method
from abra_wilds.tta.bn_state import hooked, tracking_norms

K = 16
ALPHA = 0.5
TEMPERATURE = 0.07
KEPT, BATCH = 0.9, 64  # a batch of 64 images moves components by 0.1


@torch.no_grad()
def unmix_tns(method: Method, passes: Iterable[Tensor], known: Sequence[Tensor] = ()) -> list[Tensor]:
    """Logits (N, O) of each pass, by components that the passes before it moved.

    Args:
        method: in evaluation mode, and left as it was.
        passes: images (N, C_in, H, W) of each.
        known: not read.
    """
    norms = tracking_norms(method)
    with hooked([m.register_forward_hook(Components(m, seed)) for seed, m in enumerate(norms)]):
        return [method.predict(x) for x in passes]


class Components:
    """Normalises a batch norm's input by components of statistics, and moves them.

    Attributes:
        mean: (K, C).
        var: (K, C).
    """

    def __init__(self, norm: Any, seed: int):
        C = len(norm.running_mean)
        z = torch.randn(K, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        var, mean = torch.var_mean(z, dim=0, correction=0)
        z = ((z - mean) / var.sqrt()).to(norm.running_var)
        self.mean = norm.running_mean + (ALPHA * norm.running_var).sqrt() * z
        self.var = (1 - ALPHA) * norm.running_var.expand(K, C)

    def __call__(self, norm: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """In place of the batch norm's output."""
        x = at_least_fp32(args[0])
        if x.dim() == 2:
            return out
        maps = x.flatten(2)[..., None]
        with full_precision(x.device.type):
            mean, var = self.mix(*instance_moments(maps))
        y = (maps - mean[..., None, None]) / (var + norm.eps).sqrt()[..., None, None]
        if norm.affine:
            y = y * norm.weight[:, None, None] + norm.bias[:, None, None]
        normalised: Tensor = y.reshape(x.shape).to(out.dtype)
        return normalised

    def mix(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics to normalise by of images with statistics mean and var, all (N, C); components move."""
        p = (F.normalize(mean, dim=1) @ F.normalize(self.mean, dim=1).T / TEMPERATURE).softmax(1)[..., None]
        moved_mean = torch.lerp(self.mean, mean[:, None], p)  # (N, K, C)
        moved_var = torch.lerp(self.var, var[:, None], p)
        rate = 1 - KEPT ** (len(mean) / BATCH)
        self.mean = torch.lerp(self.mean, moved_mean.mean(0), rate)
        self.var = torch.lerp(self.var, moved_var.mean(0), rate)
        between, mixed = torch.var_mean(moved_mean, dim=1, correction=0)
        return mixed, moved_var.mean(1) + between
