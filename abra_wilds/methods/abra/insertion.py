"""Where ABRA shifts a representation: insertion points, what reaches them and what leaves them.

One point, res4, is the paper's method; what its ablations ask for (several points, shallow ones, before the
ReLU, the whole map, noise of other shapes) is here too, so that `abra.py` need not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.functional.stats import group_of_row, grouped_stats, instance_moments, pooled_stats
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.abra.perturbation import StatPerturbation
from abra_wilds.nets.staged import STAGES, StagedNet, bn_buffers_kept
from abra_wilds.types import Batch

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


class Perturbations(nn.ModuleDict):
    """The perturbation of each insertion point by name, and the way of a representation through them."""

    def __init__(self, net: StagedNet, cfg: ABRAConfig):
        at = tuple(sorted(cfg.at, key=STAGES.index))
        starts = (cfg.k_init, cfg.k_init_relative, cfg.k_bound)
        super().__init__(
            {p: StatPerturbation(net.channels[p], *starts, in_sigma=cfg.k_unit == "sigma") for p in at}
        )
        self.cfg, self.at = cfg, at

    def __getitem__(self, key: str) -> StatPerturbation:
        return cast(StatPerturbation, super().__getitem__(key))

    def clean(
        self, net: StagedNet, batch: Batch, observe: bool = True, literal: bool = False
    ) -> list[Insertion]:
        """One pass of the backbone up to the last insertion point: the clean representation at each.

        The perturbations observe the points' sigma, once a step. In the literal phase 1 it is the shifted
        pass that moves the running statistics after the first point, as a forward of its own would.
        """
        points: list[Insertion] = []
        X, after = batch.x, None
        for name in self.at:
            with bn_buffers_kept(net) if literal and points else nullcontext():
                X = net(self.onward(X) if points else X, after=after, upto=name, bare=self.cfg.before_relu)
            after = name
            points.append(self.arrive(name, X, batch))
            if observe:
                sigma = points[-1].sigma.detach()
                self[name].observe(sigma.mean(0) if sigma.dim() == 2 else sigma)
        return points

    def shifted(
        self,
        net: StagedNet,
        start: Insertion,
        noise: Sequence[Pair],
        batch: Batch,
        K: Sequence[Pair] | None = None,
        detach: bool = False,
    ) -> Tensor:
        """Pooled features (N, D) after shifting at every point; later points see what earlier ones did.

        With detach, statistics are constants at every point.
        """
        point, x = start, start.x
        for i, name in enumerate(self.at):
            if i > 0:
                X = net(self.onward(x), after=self.at[i - 1], upto=name, bare=self.cfg.before_relu)
                point = self.arrive(name, X, batch)
            mu, sigma = point.mu, point.sigma
            if detach:
                mu, sigma = mu.detach(), sigma.detach()
            with full_precision(point.x.device.type):
                x = self[name](point.x, mu, sigma, noise[i], K[i] if K else None, self.cfg.clamp_sigma)
        return self.leave(net, x)

    def draw(self, points: Sequence[Insertion], batch: Batch) -> list[Pair]:
        """Standard normal noise for mean and deviation at every insertion point (Eq. 8).

        Returns:
            A pair for each point; (C,) each, or (N, C) where rows differ.
        """

        def noise(mu: Tensor) -> Tensor:
            C = mu.shape[-1]
            if self.cfg.noise_shape == "image":
                return torch.randn(len(batch), C, dtype=mu.dtype, device=mu.device)
            if mu.dim() == 1:
                return torch.randn(C, dtype=mu.dtype, device=mu.device)
            per_group = torch.randn(len(batch.groups), C, dtype=mu.dtype, device=mu.device)
            return per_group[group_of_row(batch.groups, len(batch))]

        return [(noise(point.mu), noise(point.mu)) for point in points]

    def arrive(self, name: str, X: Tensor, batch: Batch) -> Insertion:
        """Statistics (Eq. 1) of the map (N, C, h, w) that reaches an insertion point."""
        with full_precision(X.device.type):
            X = at_least_fp32(X)
            mean, var = instance_moments(X)
            if self.cfg.stats_over == "group" and len(batch.groups) > 1:
                of = group_of_row(batch.groups, len(batch))  # (N,)
                mu, sigma = (s[of] for s in grouped_stats(mean, var, batch.groups, self.cfg.eps))  # (N, C)
            else:
                mu, sigma = pooled_stats(mean, var, self.cfg.eps)  # (C,)
        return Insertion(mean if self.pooled(name) else X, mu, sigma)

    def pooled(self, name: str) -> bool:
        """Whether the shift may be applied after pooling: Eq. 7 is affine per channel, so the two commute."""
        return self.cfg.pooled_path and name == STAGES[-1] and not self.cfg.before_relu

    def onward(self, x: Tensor) -> Tensor:
        """What the next stage sees of a representation that left an insertion point."""
        return x.relu() if self.cfg.before_relu else x

    def leave(self, net: StagedNet, x: Tensor) -> Tensor:
        """Pooled features (N, D) of what left the last insertion point."""
        last = self.at[-1]
        return x if self.pooled(last) else at_least_fp32(net(self.onward(x), after=last)).mean((2, 3))

    def leaves(self) -> list[Pair]:
        """Copies of every point's K to differentiate by."""
        return [self[name].leaves() for name in self.at]

    def ascend(self, gradients: Sequence[Tensor], alpha: float) -> None:
        """K <- K + alpha * gradient (Eq. 12) at every point; gradients in the order of `leaves`."""
        for name, g_mu, g_sigma in zip(self.at, gradients[::2], gradients[1::2], strict=True):
            self[name].ascend(g_mu, g_sigma, alpha)

    def summary(self, points: Sequence[Insertion], noise: Sequence[Pair]) -> dict[str, Tensor]:
        """Every point's logs, with its name in theirs where there are several."""
        logs: dict[str, Tensor] = {}
        for name, point, pair in zip(self.at, points, noise, strict=True):
            ending = f"_{name}" if len(self.at) > 1 else ""
            found = self[name].summary(point.sigma.detach(), pair)
            logs |= {key + ending: value for key, value in found.items()}
        return logs
