"""Channel statistics of a representation, and shifting them (ABRA, arXiv 2603.05622, Eqs. 1, 4, 5 and 7).

Letters: N images, C channels, h w map, G bio-batches in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def instance_moments(X: Tensor, correction: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and variance of every image and channel (Eq. 4 before its root).

    Args:
        X: (N, C, h, w).
        correction: what is taken off h w before squares are divided by it: 0 is Eq. 4, 1 the unbiased
            variance of MixStyle, DSU and AdvStyle. A map of one position has variance 0 with either.

    Returns:
        The average-pooled features and the variances, (N, C) each.
    """
    positions = X.shape[2] * X.shape[3]
    correction = min(correction, positions - 1)
    if X.device.type != "cpu":
        var, mean = torch.var_mean(X, dim=(2, 3), correction=correction)  # one read of the map
        return mean, var
    # On a CPU var_mean takes 8 ms for a map of 16 x 2048 x 4 x 4, these two reads 0.4 ms.
    mean = X.mean((2, 3))
    norm = torch.linalg.vector_norm(X - mean[..., None, None], dim=(2, 3))
    return mean, norm**2 / (positions - correction)


def instance_stats(X: Tensor, eps: float = 1e-6, correction: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every image and channel (Eq. 4).

    Args:
        X: (N, C, h, w).
        eps: guard inside the root.
        correction: 0, or 1 for the unbiased variance (see `instance_moments`).

    Returns:
        mu and sigma, (N, C) each.
    """
    mean, var = instance_moments(X, correction)
    return mean, (var + eps).sqrt()


def batch_spread(s: Tensor, eps: float = 1e-6) -> Tensor:
    """How far a statistic varies between the images of a batch (DSU, arXiv 2202.03958).

    Args:
        s: (N, C) instance means or deviations.
        eps: guard inside the root.

    Returns:
        (C,) unbiased standard deviations over the images; the root of eps where there is one image only.
    """
    return (s.var(0, correction=min(1, len(s) - 1)) + eps).sqrt()


def channel_stats(X: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel over a whole bio-batch (Eq. 1, which divides by N h w).

    Args:
        X: (N, C, h, w), all of one bio-batch.
        eps: guard inside the root.

    Returns:
        mu and sigma, (C,) each.
    """
    return pooled_stats(*instance_moments(X), eps=eps)


def pooled_stats(mean: Tensor, var: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Eq. 1 from instance moments: the mean variance plus the variance of the means.

    The law of total variance lets one read of the map serve pooling and statistics; unlike E[x^2] - E[x]^2 it
    does not cancel in float32.

    Args:
        mean: (N, C) instance means.
        var: (N, C) biased instance variances.
        eps: guard inside the root.

    Returns:
        mu and sigma, (C,) each.
    """
    between, mu = torch.var_mean(mean, dim=0, correction=0)
    return mu, (var.mean(0) + between + eps).sqrt()


def group_of_row(groups: Sequence[Tensor], n: int) -> Tensor:
    """Position in `groups` of the bio-batch of each of n rows, (n,) int64."""
    of = torch.empty(n, dtype=torch.int64, device=groups[0].device)
    for i, rows in enumerate(groups):
        of.index_fill_(0, rows, i)  # of[rows] = i would copy i to the device and wait for it
    return of


def grouped_stats(
    mean: Tensor, var: Tensor, groups: Sequence[Tensor], eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Eq. 1 for each of several bio-batches in one batch.

    Args:
        mean: (N, C) instance means.
        var: (N, C) biased instance variances.
        groups: G index tensors, one for each bio-batch.
        eps: guard inside the root.

    Returns:
        mu and sigma, (G, C) each.
    """
    mu, sigma = zip(*(pooled_stats(mean[rows], var[rows], eps) for rows in groups), strict=True)
    return torch.stack(mu), torch.stack(sigma)


def restyle(x: Tensor, mu: Tensor, sigma: Tensor, d_mu: Tensor, d_sigma: Tensor) -> Tensor:
    """Shift the channel statistics of a representation by (d_mu, d_sigma) (Eq. 7; Eq. 5 per image).

    Written as x + d_mu + d_sigma * (x - mu) / sigma, which equals (sigma + d_sigma) * (x - mu) / sigma + mu +
    d_mu and is exact for zero shifts.

    Args:
        x: (N, C) or (N, C, h, w).
        mu: (C,), or (N, C) where images differ in their statistics.
        sigma: like mu; positive.
        d_mu: (C,) or (N, C).
        d_sigma: like d_mu.

    Raises:
        ValueError: if the channel counts differ.

    >>> restyle(torch.ones(1, 1), *torch.tensor([[0.], [1.], [0.], [0.]]))
    tensor([[1.]])
    """
    C = x.shape[1]
    if any(s.shape[-1] != C for s in (mu, sigma, d_mu, d_sigma)):
        got = [s.shape[-1] for s in (mu, sigma, d_mu, d_sigma)]
        raise ValueError(f"x has {C} channels, but mu, sigma, d_mu, d_sigma have {got}; they must agree")

    def as_map(s: Tensor) -> Tensor:
        return s.reshape(*s.shape, *[1] * (x.dim() - 2))

    mu, sigma, d_mu, d_sigma = (as_map(s) for s in (mu, sigma, d_mu, d_sigma))
    return x + d_mu + d_sigma * (x - mu) / sigma


def restyle_images(X: Tensor, mu: Tensor, sigma: Tensor, d_mu: Tensor, d_sigma: Tensor) -> Tensor:
    """`restyle` of every image by its own statistics, as one scale and one offset for each map (Eq. 5).

    The map is read once and kept once for the backward pass, and zero shifts leave it exactly as it is. What
    mu d_sigma / sigma cancels is at the level of X's own rounding.

    Args:
        X: (N, C, h, w).
        mu: (N, C).
        sigma: (N, C); positive.
        d_mu: (N, C).
        d_sigma: (N, C).
    """
    relative = d_sigma / sigma  # (N, C)
    offset = d_mu - mu * relative
    return torch.addcmul(offset[..., None, None], X, (1 + relative)[..., None, None])
