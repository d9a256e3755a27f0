"""Learned Gaussian perturbation of channel statistics (ABRA, arXiv 2603.05622, Eqs. 7, 8 and 12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from abra_wilds.dist import mean_across_ranks
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.functional.stats import group_of_row, grouped_stats, instance_moments, pooled_stats, restyle
from abra_wilds.types import InputError, grouping

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Insertion:
    """A representation at an insertion point, with the statistics of its bio-batches.

    Attributes:
        x: (N, C, h, w), or pooled (N, C) where nothing but pooling follows.
        mu: (C,), or (N, C) where the batch holds several bio-batches.
        sigma: like mu.
    """

    x: Tensor
    mu: Tensor
    sigma: Tensor

    def detach(self) -> Insertion:
        """The same point as a constant."""
        return Insertion(self.x.detach(), self.mu.detach(), self.sigma.detach())


class BatchShift(nn.Module):
    """Shifts the channel means and standard deviations of a representation, as a new bio-batch might.

    In training it shifts what passes through it by Gaussian noise of magnitudes K, one draw for each
    bio-batch; in evaluation it does nothing. `abra_loss` makes the K ascend (Eq. 12).

    The K are buffers: they ascend by their own rule, so no optimiser, weight decay or gradient reducer may
    see them, yet they are saved with the state dict. Their sign carries no meaning, because the noise
    of Eq. 8 is symmetric.

    Args:
        channels: C.
        start: first value of both K, times the first batch's sigma where relative.
        relative: see start.
        bound: of |K| / sigma; infinity is the paper's text.
        momentum: weight of the newest batch in sigma_ema.
        in_sigma: whether K are multiples of each bio-batch's sigma, which is a constant there.
        eps: guard inside the root of sigma (Eq. 1).

    Attributes:
        K_mu: (C,) magnitudes of the shifts of the mean, in units of sigma where `in_sigma`.
        K_sigma: (C,) magnitudes of the shifts of the standard deviation, alike.
        sigma_ema: (C,) running mean of the channels' standard deviations, the unit of the bound.
        seen: () int64, batches observed; at 0 the K have no value yet.
    """

    K_mu: Tensor
    K_sigma: Tensor
    sigma_ema: Tensor
    seen: Tensor

    def __init__(
        self,
        channels: int,
        start: float = 0.1,
        relative: bool = True,
        bound: float = 0.5,
        *,
        momentum: float = 0.1,
        in_sigma: bool = False,
        eps: float = 1e-6,
    ):
        super().__init__()
        self.start, self.relative, self.bound, self.momentum = start, relative, bound, momentum
        self.in_sigma, self.eps = in_sigma, eps
        for name in ("K_mu", "K_sigma", "sigma_ema"):
            self.register_buffer(name, torch.zeros(channels))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, bio_batch: Tensor | Sequence[int] | None = None) -> Tensor:
        """The representation with other statistics in training, itself in evaluation.

        Args:
            x: (N, C) or (N, C, h, w); half precision becomes float32.
            bio_batch: (N,) ids, any integers; None where all rows are of one bio-batch.

        Raises:
            InputError: for ids that are no integers, another number of them, or other channels than K have.
        """
        if not self.training:
            return x
        _, groups = grouping(bio_batch, len(x), x.device)
        point = self.measure(x, groups)
        self.observe(point.sigma)
        return self.shifted(point, draw_noise(point.mu, groups))

    def measure(self, X: Tensor, groups: Sequence[Tensor], pooled: bool = False) -> Insertion:
        """Statistics (Eq. 1) of a representation.

        Args:
            X: (N, C), or (N, C, ...).
            groups: rows of each bio-batch; with fewer than two the batch is taken as one.
            pooled: whether the point is to hold averages, (N, C), instead of the map.

        Raises:
            InputError: for other channels than K have.
        """
        C = len(self.K_mu)
        if X.dim() < 2 or X.shape[1] != C:
            raise InputError(
                f"BatchShift({C}) shifts (N, {C}) or (N, {C}, h, w); got {tuple(X.shape)}: give the channels "
                "of the layer before it"
            )
        with full_precision(X.device.type):
            X = at_least_fp32(X)
            mean, var = instance_moments(X if X.dim() == 4 else X.reshape(*X.shape[:2], -1, 1))
            if len(groups) > 1:
                of = group_of_row(groups, len(X))  # (N,)
                mu, sigma = (s[of] for s in grouped_stats(mean, var, groups, self.eps))  # (N, C)
            else:
                mu, sigma = pooled_stats(mean, var, self.eps)  # (C,)
        return Insertion(mean if pooled else X, mu, sigma)

    @torch.no_grad()
    def observe(self, sigma: Tensor) -> None:
        """Follow the batch's standard deviations; the first ones give K its first value, within bounds.

        Of several processes, each with a bio-batch of its own, they are the means. Written without a branch
        on `seen`, which would make the host wait for the device.

        Args:
            sigma: (C,), or (N, C) where the batch holds several bio-batches.
        """
        sigma = mean_across_ranks(sigma.mean(0) if sigma.dim() == 2 else sigma)
        first = self.seen == 0
        self.sigma_ema.copy_(torch.where(first, sigma, self.sigma_ema.lerp(sigma, self.momentum)))
        relative = self.relative and not self.in_sigma
        start = self.start * sigma if relative else torch.full_like(sigma, self.start)
        start = torch.minimum(start, self.bound * self.unit())
        for K in (self.K_mu, self.K_sigma):
            K.copy_(torch.where(first, start, K))
        self.seen.add_(1)

    def unit(self) -> Tensor:
        """What K are measured by, (C,): sigma, or 1 where they are multiples of it already."""
        return torch.ones_like(self.sigma_ema) if self.in_sigma else self.sigma_ema

    def leaves(self) -> Pair:
        """Copies of K_mu and K_sigma to differentiate by, (C,) each."""
        return self.K_mu.clone().requires_grad_(), self.K_sigma.clone().requires_grad_()

    def shifts(self, noise: Pair, sigma: Tensor, K: Pair | None = None) -> Pair:
        """Delta_mu and Delta_sigma of Eq. 8, noise times K, (C,) or (N, C).

        Args:
            noise: standard normal draws for mean and deviation, (C,) or (N, C) each.
            sigma: (C,) or (N, C).
            K: magnitudes to use instead of the buffers.
        """
        K_mu, K_sigma = K or (self.K_mu, self.K_sigma)
        d_mu, d_sigma = noise[0] * K_mu, noise[1] * K_sigma
        return (d_mu * sigma.detach(), d_sigma * sigma.detach()) if self.in_sigma else (d_mu, d_sigma)

    def shifted(self, point: Insertion, noise: Pair, K: Pair | None = None, clamp: bool = False) -> Tensor:
        """Eq. 7 with the shifts of Eq. 8, like the point's x.

        Args:
            point: what is shifted.
            noise: standard normal draws for mean and deviation, (C,) or (N, C) each.
            K: magnitudes to use instead of the buffers.
            clamp: keep sigma + Delta_sigma at 0 or above.
        """
        sigma = point.sigma
        with full_precision(point.x.device.type):
            d_mu, d_sigma = self.shifts(noise, sigma, K)
            d_sigma = torch.maximum(d_sigma, -sigma) if clamp else d_sigma
            return restyle(point.x, point.mu, sigma, d_mu, d_sigma)

    @torch.no_grad()
    def ascend(self, g_mu: Tensor, g_sigma: Tensor, step_size: float) -> None:
        """K <- K + step_size * gradient (Eq. 12), kept within the bound."""
        limit = self.bound * self.unit()
        for K, g in ((self.K_mu, g_mu), (self.K_sigma, g_sigma)):
            K.copy_(torch.clamp(K + step_size * g, -limit, limit))

    @torch.no_grad()
    def summary(self, sigma: Tensor, noise: Pair) -> dict[str, Tensor]:
        """How large the K are and how often they reach their limits; all values () and detached."""
        relative = torch.cat([self.K_mu, self.K_sigma]).abs() / self.unit().repeat(2)
        return {
            "K_rel_mean": relative.mean(),
            "K_rel_max": relative.max(),
            "K_at_bound": (relative >= self.bound * (1 - 1e-6)).to(relative.dtype).mean(),
            "flipped": (sigma + self.shifts(noise, sigma)[1] < 0).to(relative.dtype).mean(),
        }


def draw_noise(mu: Tensor, groups: Sequence[Tensor]) -> Pair:
    """Standard normal noise for mean and deviation, one draw for each bio-batch (Eq. 8).

    Args:
        mu: (C,), or (N, C) where the batch holds several bio-batches.
        groups: rows of each bio-batch.

    Returns:
        Like mu, each.
    """

    def noise() -> Tensor:
        if mu.dim() == 1:
            return torch.randn_like(mu)
        per_group = torch.randn(len(groups), mu.shape[1], dtype=mu.dtype, device=mu.device)
        return per_group[group_of_row(groups, len(mu))]

    return noise(), noise()
