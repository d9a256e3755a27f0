"""Class effects, bio-batch effects and the rest of a statistic of images, by ridge regression from sums.

The model of each channel is m_i = mu + a[y_i] + b[g_i] + e_i: classes and bio-batches are not crossed evenly
in a screen, so that their effects are estimated together.

Letters: n images, O classes, G bio-batches, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Effects:
    """What moves a statistic of images, channel by channel.

    Attributes:
        scores: (O, r) of each class in r directions.
        loadings: (r, C) of the directions; scores @ loadings are the class effects a (O, C).
        between: (C,) tau_b^2, variance of the effects b of bio-batches.
        within: (C,) s^2, variance of the rest e.
    """

    scores: Tensor
    loadings: Tensor
    between: Tensor
    within: Tensor

    def of_mix(self, mix: Tensor) -> Tensor:
        """Mean class effect (C,) of images whose classes come with frequencies (O,)."""
        return (mix @ self.scores) @ self.loadings

    def spread_of_mix(self, mix: Tensor) -> Tensor:
        """Variance (C,) that class effects cause among images whose classes come with frequencies (O,)."""
        mean = mix @ self.scores
        covariance = self.scores.mT @ (mix[:, None] * self.scores) - torch.outer(mean, mean)  # (r, r)
        return ((covariance @ self.loadings) * self.loadings).sum(0).clamp_min(0)


class EffectSums:
    """Sums over images from which effects follow, so that no image's statistics need be kept.

    Args:
        n_classes: O.
        n_groups: G.
        channels: C.
    """

    def __init__(self, n_classes: int, n_groups: int, channels: int):
        self.n_classes = n_classes
        columns = 1 + n_classes + n_groups
        self._products = torch.zeros(columns, columns, dtype=torch.float64)  # X' X
        self._moments = torch.zeros(columns, channels, dtype=torch.float64)  # X' M
        self._squares = torch.zeros(channels, dtype=torch.float64)

    def add(self, M: Tensor, y: Tensor, g: Tensor) -> None:
        """Take images in.

        Args:
            M: (n, C) float64, best with means near 0.
            y: (n,) int64 class ids.
            g: (n,) int64 bio-batches.
        """
        ones = torch.stack([torch.zeros_like(y), 1 + y, 1 + self.n_classes + g])  # columns of X that are 1
        for columns in ones:
            self._moments.index_add_(0, columns, M)
        pairs = ones[:, None].expand(3, 3, -1).flatten(), ones[None].expand(3, 3, -1).flatten()
        self._products.index_put_(pairs, torch.ones(1, dtype=torch.float64), accumulate=True)
        self._squares += (M**2).sum(0)

    def mean(self) -> Tensor:
        """Mean (C,) over images."""
        return self._moments[0] / self._products[0, 0]

    def effects(self, ridge: float = 1.0, rank: int = 32) -> Effects:
        """Solve for the effects.

        The variance of the rest is divided by its degrees of freedom, and from the variance of the estimated
        bio-batch effects the part is taken off that the rest alone would cause.

        Args:
            ridge: images of effect 0 that every class and bio-batch is given.
            rank: most directions of the class effects, the largest ones.
        """
        penalty = torch.full((len(self._products),), ridge, dtype=torch.float64)
        penalty[0] = 0
        inverse = torch.linalg.inv(self._products + penalty.diag())
        beta = inverse @ self._moments  # (1 + O + G, C)
        hat = inverse @ self._products
        freedom = (self._products[0, 0] - hat.trace()).clamp_min(1.0)
        residual = self._squares - (2 * self._moments - self._products @ beta).mul(beta).sum(0)
        within = residual.clamp_min(0) / freedom
        of_groups = slice(1 + self.n_classes, None)
        b, noise = beta[of_groups], (hat @ inverse)[of_groups, of_groups]  # covariance of b over s^2
        centred = noise.trace() - noise.sum() / len(b)
        between = (b.var(0, correction=0) - within * centred / len(b)).clamp_min(0)
        return Effects(*leading(beta[1 : 1 + self.n_classes], rank), between, within)


def leading(a: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Scores (O, r) and loadings (r, C) of the largest directions of effects (O, C) about their mean."""
    a = a - a.mean(0)
    r = min(rank, *a.shape)
    if a.shape[0] <= a.shape[1]:
        U = torch.linalg.eigh(a @ a.mT)[1][:, -r:]
        return U, U.mT @ a
    V = torch.linalg.eigh(a.mT @ a)[1][:, -r:]
    return a @ V, V.mT


def mix_spread(counts: Tensor) -> float:
    """How far the class mix of bio-batches varies beyond chance: 1 / (1 + kappa) of a Dirichlet, in [0, 1].

    By moments: of n images of a bio-batch whose mix is drawn from Dirichlet(kappa pi), E |p - pi|^2 / (1 -
    |pi|^2) = 1 / n + (1 - 1 / n) / (1 + kappa). It is 0 where all bio-batches hold the classes alike.

    Args:
        counts: (G, O) images of each class in each bio-batch.
    """
    counts = counts.double()
    n = counts.sum(1)
    pi = counts.sum(0) / n.sum()
    seen = ((counts / n[:, None] - pi) ** 2).sum(1) / (1 - (pi**2).sum()).clamp_min(1e-12)
    return float(((seen - 1 / n).mean() / (1 - 1 / n).mean().clamp_min(1e-12)).clamp(0, 1))
