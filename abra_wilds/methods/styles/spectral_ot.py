"""Spectral-OT, a training rule of this project and of no paper: images as other bio-batches would show them.

Stain, bleed-through, focus and noise of a bio-batch act on the power of each spatial frequency in each
channel, and on what channels share of it: on the cross-spectra of its images. The first epoch measures their
means in each training bio-batch, and how far these are from what its mix of classes lets expect. Every image
is carried, by the optimal transport map between stationary Gaussian fields, from its own bio-batch to one
that does not exist, drawn from the Gaussian that the measured deviations of its cell line span. So the
network cannot tell by these which image is of which bio-batch.

What it is not: it reads no image of a new bio-batch, and says nothing of differences between bio-batches that
are no linear filter, such as how many cells there are. Filters between images are those of texture mixing
(Xia et al. 2014) and of colour transfer (Pitie et al. 2007); drawing bio-batches is ours.

Letters: B training bio-batches, L cell lines, O classes, R rings of spatial frequency, N images, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from abra_wilds.config.fields import option
from abra_wilds.dist import sum_across_ranks
from abra_wilds.functional.losses import cross_entropies
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.functional.spectra import (
    cross_spectra,
    filtered,
    matrix_exp,
    matrix_log,
    ring_numbers,
    transport,
    with_moments_of,
)
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.nets.staged import StagedNet
from abra_wilds.types import Batch, BatchPlan, DataInfo, StepOutput

LEAST = 1e-6  # power added to every frequency, where white noise of a standardised image has 1


@dataclass(frozen=True)
class SpectralOTConfig(MethodConfig):
    """How often images are carried elsewhere, how far, and by what; chosen on a screen of no study."""

    p: float = option(1.0, "probability that an image is carried to another bio-batch", at_least=0, at_most=1)
    strength: float = option(
        1.0, "spread of the drawn bio-batches, that of the measured ones being 1", at_least=0
    )
    rings: int = option(20, "rings of spatial frequency up to 0.5 cycles a pixel", at_least=1, at_most=512)
    channels: str = option(
        "together",
        "together: what channels share is carried too; apart: each by its own power",
        choices=("together", "apart"),
    )
    draws: str = option(
        "measured",
        "measured: combinations of measured bio-batches; independent: the same spread, each ring by itself",
        choices=("measured", "independent"),
    )

    def idle(self, mix: str) -> dict[str, str]:
        """Flags of images that are never carried."""
        others = ("strength", "rings", "channels", "draws")
        return {} if self.p else {f"spectral_ot_{name}": "--spectral_ot_p above 0" for name in others}


class SpectralOT(Method):
    """Cross-entropy on images that are carried to bio-batches like the measured ones."""

    name = "Spectral-OT"
    plan = BatchPlan(mixes=("none",))
    plain_forward = False
    Config = SpectralOTConfig
    cfg: SpectralOTConfig
    place: Tensor
    line: Tensor
    seen: Tensor
    power: Tensor
    by_class: Tensor
    level: Tensor
    deviation: Tensor

    def __init__(self, net: StagedNet, info: DataInfo, cfg: SpectralOTConfig):
        super().__init__(net, info, cfg)
        B, R, C, O = len(info.train_groups), cfg.rings + 1, info.in_channels, info.n_classes
        place = torch.zeros(info.n_groups, dtype=torch.int64)
        place[list(info.train_groups)] = torch.arange(B)
        kinds, line = torch.unique(torch.tensor(info.cell_lines or [0] * B), return_inverse=True)
        self.register_buffer("place", place)  # of each bio-batch id among those of training
        self.register_buffer("line", line)  # (B,) from 0 to L - 1
        self.register_buffer("seen", torch.zeros(B, O))  # images measured
        self.register_buffer("by_class", torch.zeros(len(kinds), O, R, C, C))
        for name in ("power", "level", "deviation"):
            self.register_buffer(name, torch.zeros(B, R, C, C))

    def forward(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy; the logits are those of carried images."""
        x = batch.x
        if self.training:
            with torch.no_grad(), full_precision(x.device.type):
                x, b = at_least_fp32(x), self.place[batch.g]  # (N,)
                if self.context.epoch == 0:  # each image once: turns and flips leave rings alone
                    self.measure(x, b, batch.target.y)
                x = self.carried(x, b)
        logits = self.predict(x)  # (N, O)
        return StepOutput(cross_entropies(logits, batch.target).mean(), logits)

    def measure(self, x: Tensor, b: Tensor, y: Tensor) -> None:
        """Add images to the mean cross-spectra of bio-batches and classes, over all processes.

        Args:
            x: (N, C, H, W).
            b: (N,) places of their bio-batches.
            y: (N,) their classes.
        """
        S = cross_spectra(x, self.rings_of(x), self.cfg.rings + 1)  # (N, R, C, C)
        if self.cfg.channels == "apart":
            S = torch.diag_embed(torch.diagonal(S, dim1=-2, dim2=-1))
        O, ones = self.info.n_classes, torch.ones_like(x[:, 0, 0, 0])
        for total, at, values in (
            (self.power, b, S),
            (self.by_class.flatten(0, 1), self.line[b] * O + y, S),
            (self.seen.flatten(), b * O + y, ones),
        ):
            total += sum_across_ranks(torch.zeros_like(total).index_add(0, at, values))

        def log(mean: Tensor) -> Tensor:
            return matrix_log(mean + LEAST * torch.eye(x.shape[1], dtype=x.dtype, device=x.device))

        n = self.seen.sum(1).clamp(min=1)  # (B,)
        own = log(self.power / n[:, None, None, None])
        deviation = (own - log(self.expected())) * self.known[:, None, None, None]
        deviation = deviation - torch.einsum("bk,krij->brij", self.line_means, deviation)
        self.deviation.copy_(deviation * self.known[:, None, None, None])
        self.level.copy_(own - self.deviation)

    def expected(self) -> Tensor:
        """Mean cross-spectra, (B, R, C, C), that each bio-batch has if classes alone decide.

        The mean over its images of what their classes have in all training bio-batches of the cell line
        (indirect standardisation).
        """
        share = self.seen / self.seen.sum(1, keepdim=True).clamp(min=1)  # (B, O)
        found = torch.zeros_like(self.power).flatten(1)  # (B, R C C)
        for k, of_line in enumerate(self.by_class):
            here = (self.line == k).to(share.dtype)[:, None]  # (B, 1)
            count = (self.seen * here).sum(0).clamp(min=1)  # (O,)
            found = found + (share * here) @ (of_line.flatten(1) / count[:, None])
        return found.view_as(self.power)

    @property
    def known(self) -> Tensor:
        """Whether each training bio-batch has been measured, (B,) of 0 and 1."""
        return (self.seen.sum(1) > 0).to(self.seen.dtype)

    @property
    def line_means(self) -> Tensor:
        """Weights, (B, B), of the mean over the measured bio-batches of each one's cell line."""
        alike = (self.line[:, None] == self.line) * self.known
        return alike / alike.sum(1, keepdim=True).clamp(min=1)

    @property
    def freedom(self) -> Tensor:
        """Measured bio-batches less their cell lines, at least 1: the degrees of freedom of deviations."""
        return (self.known * (1 - self.line_means.diagonal())).sum().clamp(min=1)

    def carried(self, x: Tensor, b: Tensor) -> Tensor:
        """Images (N, C, H, W) as bio-batches would show them that are drawn for each; b (N,) as in `measure`.

        Every image and channel keeps its mean and deviation.
        """
        level = self.level[b]
        S, T = matrix_exp(level + self.deviation[b]), matrix_exp(level + self.drawn(len(x)))
        moved = with_moments_of(filtered(x, transport(S, T), self.rings_of(x)), x)
        chosen = torch.rand(len(x), device=x.device) < self.cfg.p
        return torch.where(chosen[:, None, None, None], moved, x)

    def drawn(self, N: int) -> Tensor:
        """Deviations of new bio-batches from the level of a cell line, (N, R, C, C) in log units."""
        D, spread = self.deviation, self.cfg.strength / self.freedom.sqrt()
        if self.cfg.draws == "measured":
            noise = torch.randn(N, len(D), dtype=D.dtype, device=D.device)
            return torch.einsum("nb,brij->nrij", spread * noise, D)
        noise = torch.randn(N, *D.shape[1:], dtype=D.dtype, device=D.device).tril()
        return spread * D.square().sum(0).sqrt() * (noise + noise.tril(-1).mT)

    def rings_of(self, x: Tensor) -> Tensor:
        """The ring of each frequency of images (N, C, H, W)."""
        H, W = x.shape[-2:]
        return ring_numbers(H, W, self.cfg.rings + 1, x.device)
