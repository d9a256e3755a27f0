"""Where ABRA shifts a representation: insertion points, what reaches them and what leaves them.

One point, res4, is the paper's method; what its ablations ask for (several points, shallow ones, before the
ReLU, the whole map, noise of other shapes) is here too, so that `abra.py` need not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from abra_wilds.functional.precision import at_least_fp32
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.abra.perturbation import BatchShift, Insertion, Pair, draw_noise
from abra_wilds.nets.staged import STAGES, StagedNet, bn_buffers_kept
from abra_wilds.types import Batch


class Perturbations(nn.ModuleDict):
    """The perturbation of each insertion point by name, and the way of a representation through them."""

    def __init__(self, net: StagedNet, cfg: ABRAConfig):
        at = tuple(sorted(cfg.at, key=STAGES.index))
        starts = (cfg.k_init, cfg.k_init_relative, cfg.k_bound)
        unit = cfg.k_unit == "sigma"
        super().__init__({p: BatchShift(net.channels[p], *starts, in_sigma=unit, eps=cfg.eps) for p in at})
        self.cfg, self.at = cfg, at

    def __getitem__(self, key: str) -> BatchShift:
        return cast(BatchShift, super().__getitem__(key))

    @property
    def shifts(self) -> list[BatchShift]:
        """The perturbations, shallow ones first."""
        return [self[name] for name in self.at]

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
                self[name].observe(points[-1].sigma)
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
            if detach:
                point = replace(point, mu=point.mu.detach(), sigma=point.sigma.detach())
            x = self[name].shifted(point, noise[i], K[i] if K else None, self.cfg.clamp_sigma)
        return self.leave(net, x)

    def draw(self, points: Sequence[Insertion], batch: Batch) -> list[Pair]:
        """Standard normal noise for mean and deviation at every insertion point (Eq. 8).

        Returns:
            A pair for each point; (C,) each, or (N, C) where rows differ.
        """
        if self.cfg.noise_shape == "batch":
            return [draw_noise(point.mu, batch.groups) for point in points]

        def noise(mu: Tensor) -> Tensor:
            return torch.randn(len(batch), mu.shape[-1], dtype=mu.dtype, device=mu.device)

        return [(noise(point.mu), noise(point.mu)) for point in points]

    def arrive(self, name: str, X: Tensor, batch: Batch) -> Insertion:
        """Statistics (Eq. 1) of the map (N, C, h, w) that reaches an insertion point."""
        groups = batch.groups if self.cfg.stats_over == "group" else ()
        return self[name].measure(X, groups, self.pooled(name))

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

    def summary(self, points: Sequence[Insertion], noise: Sequence[Pair]) -> dict[str, Tensor]:
        """Every point's logs, with its name in theirs where there are several."""
        logs: dict[str, Tensor] = {}
        for name, point, pair in zip(self.at, points, noise, strict=True):
            ending = f"_{name}" if len(self.at) > 1 else ""
            found = self[name].summary(point.sigma.detach(), pair)
            logs |= {key + ending: value for key, value in found.items()}
        return logs
