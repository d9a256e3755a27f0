"""A small auto-encoder with style codes and noise maps: IID-lite's stand-in for a GAN inverter.

Ours, after the shapes of Wu et al. 2022 (arXiv 2203.00332): 14 codes of 512 numbers enter the decoder by
AdaIN, five maps of one channel are added to it. Letters: N images, C channels, h w of a map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abra_wilds.functional.stats import instance_stats

CODES, D_CODE = 14, 512
ENCODER = (32, 64, 128, 128, 256)  # channels at strides 2, 4, 8, 16, 32
DECODER = (128, 128, 128, 64, 64, 32, 16)  # at strides 64, 32, 16, 8, 4, 2, 1
SMALLEST_SIDE = 64  # of a smaller image the coarsest map would be one pixel, which normalises to 0


class AutoEncoder(nn.Module):
    """Images to codes and maps, and back; without batch norm or dropout, so in evaluation as in training."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.encoder = Encoder(in_channels)
        self.decoder = Decoder(in_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images and their reconstructions, (N, C_in, H, W) each; enlarged where they are small."""
        x = enlarged(x)
        codes, maps = self.encode(x)
        size = (x.shape[2], x.shape[3])
        return x, self.decoder(codes, maps, size)

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Codes (N, 14, 512) and five maps (N, 1, h, w), finest first, of images (N, C_in, H, W)."""
        found: tuple[Tensor, list[Tensor]] = self.encoder(enlarged(x))
        return found


class Encoder(nn.Module):
    """Five stages of stride 2; each gives a map, and the last the codes."""

    def __init__(self, in_channels: int):
        super().__init__()
        widths = (in_channels, *ENCODER)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, C, 3, 2, 1, bias=False),
                nn.GroupNorm(8, C),
                nn.LeakyReLU(0.2),
                nn.Conv2d(C, C, 3, 1, 1, bias=False),
                nn.GroupNorm(8, C),
                nn.LeakyReLU(0.2),
            )
            for before, C in zip(widths, ENCODER, strict=False)
        )
        self.to_map = nn.ModuleList(nn.Conv2d(C, 1, 1, bias=False) for C in ENCODER)
        self.to_codes = nn.Linear(ENCODER[-1], CODES * D_CODE)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Codes (N, 14, 512) and maps (N, 1, h, w), each map of mean 0 and deviation 1 in every image."""
        maps = []
        for stage, to_map in zip(self.stages, self.to_map, strict=True):
            x = stage(x)
            maps.append(adain(to_map(x)))
        return self.to_codes(x.mean((2, 3))).unflatten(1, (CODES, D_CODE)), maps


class Decoder(nn.Module):
    """Seven blocks from a learned constant to the image, with two codes each; the maps enter five of them."""

    def __init__(self, out_channels: int):
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, DECODER[0], 4, 4))
        widths = (DECODER[0], *DECODER)
        self.blocks = nn.ModuleList(
            StyledBlock(before, C, with_map=0 < i < len(DECODER) - 1)
            for i, (before, C) in enumerate(zip(widths, DECODER, strict=False))
        )
        self.to_image = nn.Conv2d(DECODER[-1], out_channels, 1)

    def forward(self, codes: Tensor, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Images (N, C, H, W) of this size."""
        sizes = [(m.shape[2], m.shape[3]) for m in reversed(maps)]
        first = (max(2, sizes[0][0] // 2), max(2, sizes[0][1] // 2))  # one pixel would normalise to 0
        x = F.interpolate(self.start, size=first).expand(len(codes), -1, -1, -1)
        entering = [None, *reversed(maps), None]
        for i, block in enumerate(self.blocks):
            x = F.interpolate(x, size=[first, *sizes, size][i])
            x = block(x, codes[:, 2 * i : 2 * i + 2], entering[i])
        image: Tensor = self.to_image(x)
        return image


class StyledBlock(nn.Module):
    """Two convolutions, each followed by AdaIN from its own code; a map is added after the first."""

    def __init__(self, before: int, C: int, with_map: bool):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, C, 3, 1, 1, bias=False) for i in (before, C))
        self.to_style = nn.ModuleList(nn.Linear(D_CODE, 2 * C) for _ in range(2))
        self.gain = nn.Parameter(torch.ones(1, C, 1, 1)) if with_map else None

    def forward(self, x: Tensor, codes: Tensor, noise: Tensor | None) -> Tensor:
        """(N, C, h, w) from x (N, C', h, w), two codes (N, 2, 512) and a map (N, 1, h, w) or None."""
        for i, (conv, to_style) in enumerate(zip(self.convs, self.to_style, strict=True)):
            x = conv(x)
            if i == 0 and self.gain is not None and noise is not None:
                x = x + self.gain * noise
            x = F.leaky_relu(adain(x, *to_style(codes[:, i]).chunk(2, dim=1)), 0.2)
        return x


def adain(x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Each image and channel to mean 0 and deviation 1, times 1 + scale, plus shift (arXiv 1703.06868).

    Args:
        x: (N, C, h, w).
        scale: (N, C), or None for 0.
        shift: (N, C), or None for 0.
    """
    mean, std = instance_stats(x)  # (N, C) each
    x = (x - mean[..., None, None]) / std[..., None, None]
    if scale is None or shift is None:
        return x
    return (1 + scale[..., None, None]) * x + shift[..., None, None]


def enlarged(x: Tensor) -> Tensor:
    """Images with sides of `SMALLEST_SIDE` pixels at least, by repeating pixels."""
    H, W = x.shape[2:]
    size = (max(H, SMALLEST_SIDE), max(W, SMALLEST_SIDE))
    return x if size == (H, W) else F.interpolate(x, size=size)
