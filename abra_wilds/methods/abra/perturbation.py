"""Learned Gaussian perturbation of channel statistics (ABRA, arXiv 2603.05622, Eqs. 7, 8 and 12)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abra_wilds.dist import mean_across_ranks
from abra_wilds.functional.stats import restyle


class StatPerturbation(nn.Module):
    """Magnitudes K of the shifts of one representation's channel means and standard deviations.

    The K are buffers: they ascend by their own rule, so no optimiser, weight decay or gradient reducer may
    see them, yet they are saved with the state dict. Their sign carries no meaning, because the noise
    of Eq. 8 is symmetric.

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
        start: float,
        relative: bool,
        bound: float,
        momentum: float = 0.1,
        in_sigma: bool = False,
    ):
        """Start K, once sigma is known, at `start` (times sigma, if relative), and bound |K| / sigma.

        With in_sigma K are multiples of each bio-batch's sigma, which is a constant there.
        """
        super().__init__()
        self.start, self.relative, self.bound, self.momentum = start, relative, bound, momentum
        self.in_sigma = in_sigma
        for name in ("K_mu", "K_sigma", "sigma_ema"):
            self.register_buffer(name, torch.zeros(channels))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def observe(self, sigma: Tensor) -> None:
        """Follow the batch's standard deviations (C,); the first ones give K its first value, within bounds.

        Of several processes, each with a bio-batch of its own, they are the means. Written without a branch
        on `seen`, which would make the host wait for the device.
        """
        sigma = mean_across_ranks(sigma)
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

    def leaves(self) -> tuple[Tensor, Tensor]:
        """Copies of K_mu and K_sigma to differentiate by, (C,) each."""
        return self.K_mu.clone().requires_grad_(), self.K_sigma.clone().requires_grad_()

    def shifts(
        self, noise: tuple[Tensor, Tensor], sigma: Tensor, K: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Delta_mu and Delta_sigma of Eq. 8, noise times K, (C,) or (N, C).

        Args:
            noise: standard normal draws for mean and deviation, (C,) or (N, C) each.
            sigma: (C,) or (N, C).
            K: magnitudes to use instead of the buffers.
        """
        K_mu, K_sigma = K or (self.K_mu, self.K_sigma)
        d_mu, d_sigma = noise[0] * K_mu, noise[1] * K_sigma
        return (d_mu * sigma.detach(), d_sigma * sigma.detach()) if self.in_sigma else (d_mu, d_sigma)

    def forward(
        self,
        x: Tensor,
        mu: Tensor,
        sigma: Tensor,
        noise: tuple[Tensor, Tensor],
        K: tuple[Tensor, Tensor] | None = None,
        clamp: bool = False,
    ) -> Tensor:
        """Eq. 7 with the shifts of Eq. 8.

        Args:
            x: (N, C) or (N, C, h, w).
            mu: (C,) or (N, C).
            sigma: like mu.
            noise: standard normal draws for mean and deviation, (C,) or (N, C) each.
            K: magnitudes to use instead of the buffers.
            clamp: keep sigma + Delta_sigma at 0 or above.
        """
        d_mu, d_sigma = self.shifts(noise, sigma, K)
        return restyle(x, mu, sigma, d_mu, torch.maximum(d_sigma, -sigma) if clamp else d_sigma)

    @torch.no_grad()
    def ascend(self, g_mu: Tensor, g_sigma: Tensor, step_size: float) -> None:
        """K <- K + step_size * gradient (Eq. 12), kept within the bound."""
        limit = self.bound * self.unit()
        for K, g in ((self.K_mu, g_mu), (self.K_sigma, g_sigma)):
            K.copy_(torch.clamp(K + step_size * g, -limit, limit))

    @torch.no_grad()
    def summary(self, sigma: Tensor, noise: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """How large the K are and how often they reach their limits; all values () and detached."""
        relative = torch.cat([self.K_mu, self.K_sigma]).abs() / self.unit().repeat(2)
        return {
            "K_rel_mean": relative.mean(),
            "K_rel_max": relative.max(),
            "K_at_bound": (relative >= self.bound * (1 - 1e-6)).to(relative.dtype).mean(),
            "flipped": (sigma + self.shifts(noise, sigma)[1] < 0).to(relative.dtype).mean(),
        }
