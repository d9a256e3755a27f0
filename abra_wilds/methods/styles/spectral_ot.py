"""Spectral-OT, a training rule of this project: images as other bio-batches would show them.

Stain, bleed-through, focus and noise of a bio-batch act on the power of each spatial frequency in each
channel, and on what channels share of it: on the cross-spectra of its images. The first epoch measures their
means in each training bio-batch, and how far these deviate from the means of the same classes in the whole
cell line. Every image is carried, by the optimal transport map between stationary Gaussian fields, from its
own bio-batch to one that does not exist, whose deviation is drawn from the Gaussian that all measured
deviations span.

The combination is ours. Its parts are known: the map aligns signals of several channels in Spatio-Temporal
Monge Alignment (Gnassounou et al. 2024, arXiv 2407.14303), which maps to a barycentre and draws nothing;
stain augmentation draws targets from measured statistics (RandStainNA, Shen et al. 2022, arXiv 2206.12694);
expected means of a mix of classes are indirect standardisation.

Letters: B training bio-batches, L cell lines, O classes, R rings of spatial frequency, N images, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    matrix_roots,
    ring_numbers,
    transport,
    with_moments_of,
)
from abra_wilds.methods.base import Method, MethodConfig
from abra_wilds.nets.staged import StagedNet
from abra_wilds.types import Batch, BatchPlan, DataInfo, StepOutput

# Added to the power of every frequency: of white noise with variance 1, and of the mean power of its ring.
LEAST, LEAST_SHARE = 1e-6, 1e-4
FARTHEST = 3.0  # largest deviation, in log power: a bio-batch whose channel is blank must not set the scale


@dataclass(frozen=True)
class SpectralOTConfig(MethodConfig):
    """How often images are carried elsewhere, how far, and by what."""

    p: float = option(1.0, "probability that an image is carried to another bio-batch", at_least=0, at_most=1)
    strength: float = option(
        1.0, "spread of the drawn bio-batches, that of the measured ones being 1", at_least=0
    )
    rings: int = option(20, "rings of spatial frequency up to 0.5 cycles a pixel", at_least=1, at_most=64)
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
    root: Tensor
    inverse: Tensor

    def __init__(self, net: StagedNet, info: DataInfo, cfg: SpectralOTConfig):
        super().__init__(net, info, cfg)
        B, R, C, O = len(info.train_groups), cfg.rings + 1, info.in_channels, info.n_classes
        place = torch.full((info.n_groups,), B)  # no place: an id that is not of training fails
        place[list(info.train_groups)] = torch.arange(B)
        lines = info.cell_lines or (0,) * B
        number = {line: k for k, line in enumerate(dict.fromkeys(lines))}
        self.register_buffer("place", place)  # of each bio-batch id among those of training
        self.register_buffer("line", torch.tensor([number[line] for line in lines]))  # (B,) below L
        self.register_buffer("seen", torch.zeros(B, O))  # images measured
        self.register_buffer("by_class", torch.zeros(len(number) * O, R * C * C))
        for name in ("power", "level", "deviation"):
            self.register_buffer(name, torch.zeros(B, R, C, C))
        for name in ("root", "inverse"):  # of each bio-batch's mean, S^1/2 and S^-1/2
            self.register_buffer(name, torch.eye(C).repeat(B, R, 1, 1))

    def forward(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy; the logits are those of carried images."""
        x = batch.x
        if self.training and self.cfg.p:
            with torch.no_grad(), full_precision(x.device.type):
                x, b = at_least_fp32(x), self.place[batch.g]  # (N,)
                if self.context.epoch == 0:
                    self.measure(x, b, batch.target.y)
                x = self.carried(x, b)
        logits = self.predict(x)  # (N, O)
        spread = self.deviation.square().mean().sqrt()
        return StepOutput(cross_entropies(logits, batch.target).mean(), logits, {"deviation": spread})

    def remark(self, logs: Mapping[str, float]) -> str | None:
        """Tells when there is nowhere to carry images."""
        if not self.cfg.p or logs.get("deviation", 1.0) > 1e-4:
            return None
        return (
            "no training bio-batch deviates from its cell line, so Spectral-OT trains as ERM does; it needs "
            "two bio-batches of a cell line that have classes in common"
        )

    def measure(self, x: Tensor, b: Tensor, y: Tensor) -> None:
        """Add images to the mean cross-spectra of bio-batches and classes, over all processes.

        Turns and flips leave cross-spectra alone, so that every epoch would give the same means.

        Args:
            x: (N, C, H, W).
            b: (N,) places of their bio-batches.
            y: (N,) their classes.
        """
        centred = x - x.mean((2, 3), keepdim=True)  # means are kept by every filter
        S = cross_spectra(centred, self.rings_of(x), self.cfg.rings + 1)  # (N, R, C, C)
        if self.cfg.channels == "apart":
            S = torch.diag_embed(torch.diagonal(S, dim1=-2, dim2=-1))
        O, ones = self.info.n_classes, torch.ones_like(x[:, 0, 0, 0])
        for total, at, values in (
            (self.power, b, S),
            (self.by_class, self.line[b] * O + y, S.flatten(1)),
            (self.seen.flatten(), b * O + y, ones),
        ):
            total += sum_across_ranks(torch.zeros_like(total).index_add(0, at, values))

        n = self.seen.sum(1).clamp(min=1)  # (B,)
        own = floored(self.power / n[:, None, None, None])
        log, known = matrix_log(own), self.known[:, None, None, None]
        gap = (log - matrix_log(floored(self.expected()))) * known
        gap = (gap - torch.einsum("bk,krij->brij", self.line_means, gap)) * known
        self.deviation.copy_(gap.clamp(-FARTHEST, FARTHEST))
        self.level.copy_(log - self.deviation)
        for kept, found in zip((self.root, self.inverse), matrix_roots(own), strict=True):
            kept.copy_(found)

    def expected(self) -> Tensor:
        """Mean cross-spectra, (B, R, C, C), that each bio-batch would have if classes alone decided.

        The mean over its images of what their classes have in all training bio-batches of the cell line.
        """
        O = self.info.n_classes
        share = self.seen / self.seen.sum(1, keepdim=True).clamp(min=1)  # (B, O)
        found = torch.zeros_like(self.power).flatten(1)  # (B, R C C)
        for k in range(len(self.by_class) // O):
            here = (self.line == k).to(share.dtype)[:, None]  # (B, 1)
            count = (self.seen * here).sum(0).clamp(min=1)  # (O,)
            found = found + (share * here) @ (self.by_class[k * O : (k + 1) * O] / count[:, None])
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
        T = matrix_exp(self.level[b] + self.drawn(len(x)))
        M = transport((self.root[b], self.inverse[b]), T)
        moved = with_moments_of(filtered(x, M, self.rings_of(x)), x)
        if self.cfg.p == 1:
            return moved
        chosen = torch.rand(len(x), device=x.device) < self.cfg.p
        return torch.where(chosen[:, None, None, None], moved, x)

    def drawn(self, N: int) -> Tensor:
        """Deviations of new bio-batches, (N, R, C, C) in log power."""
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


def floored(S: Tensor) -> Tensor:
    """Mean cross-spectra (..., C, C) with a little white noise, so that all mixes of channels have power."""
    power = torch.diagonal(S, dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return S + (LEAST + LEAST_SHARE * power) * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
