"""Augmentation of a whole batch on its device, with a draw of its own for every image.

Letters: N images, C channels, H W of an image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from abra_wilds.errors import InputError

TRANSFORM_NAMES = ("rxrx1", "paper", "iid", "none", "imagenet")
# Mean and deviation of red, green and blue, of 1; WILDS, examples/transforms.py.
IMAGENET = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))
CROP, CROP_TO = 256, 512  # ABRA section 4.1: "crop 256x256, resize to 512x512"
# Wu et al. 2022: smallest share of a side that is shown, spreads of gain and offset in standard deviations.
ZOOM, GAIN, OFFSET = 0.5, 0.1, 0.1


def augment(
    x: Tensor,
    name: str,
    generator: torch.Generator | None = None,
    size: tuple[int, int] | None = None,
    *,
    cropped: bool = False,
) -> Tensor:
    """Augment, resize and standardise a batch of images.

    The draws are read on the host. With a CPU generator nothing waits for the GPU, and both devices augment
    alike.

    Args:
        x: (N, C, H, W) uint8 or uint16.
        name: "rxrx1" (WILDS: a quarter turn 0-3, then a horizontal flip with p=.5), "paper" (ABRA section
            4.1: horizontal and vertical flips with p=.5, with p=.5 a turn by 90, 180 or 270 degrees, and
            where images are larger than 256 a crop of 256 resized to 512), "iid" (Wu et al. 2022: both flips
            and a transposition with p=.5 each, a square crop of half the side or more stretched back by
            nearest pixels, and a random gain and offset after standardising), "none" (evaluation) or
            "imagenet" (WILDS' image_base: no augmentation, and colours by ImageNet's mean and deviation).
        generator: the only source of randomness, best on the CPU; "none" needs none.
        size: (H, W) to resize to before standardising, None keeps the size.
        cropped: whether x are windows of the `crop_side` already, which "paper" then only resizes.

    Returns:
        (N, C, H', W') float32, mean 0 and standard deviation 1 for each image and channel, which "iid" then
        disturbs.

    Raises:
        InputError: for an unknown name, or images that are not square and should be turned.
    """
    if name not in TRANSFORM_NAMES:
        raise InputError(f"unknown transform {name!r}; choose one of {', '.join(TRANSFORM_NAMES)}")
    if name == "none":
        return standardise(resize(x, size))
    if name == "imagenet":
        return by_imagenet(x, size)
    N, _, H, W = x.shape
    check_square(name, H, W)
    if generator is None:
        raise TypeError(f"transform {name!r} is random and needs a generator")
    depth, x = x.dtype, bits(x)
    if name == "rxrx1":
        return standardise(resize(reorient(x, *draw_rxrx1(N, generator)).view(depth), size))
    if name == "iid":
        x = zoom(reorient(x, *draw_iid(N, generator)), *draw_squares(N, H, generator)).view(depth)
        return pixel_noise(standardise(resize(x, size)), generator)
    elements = draw_paper(N, generator)
    side = None if cropped else crop_side(name, H, W)
    # Cropped first: a uniform crop of a turned image is a turned uniform crop, at a quarter of the pixels.
    if side is not None:
        x = crop(x, *draw_corners(N, H - side + 1, generator), side)
    x = reorient(x, *elements).view(depth)
    if cropped or side is not None:
        x = resize(x, (CROP_TO, CROP_TO))
    return standardise(resize(x, size))


def bits(x: Tensor) -> Tensor:
    """The same memory for what only moves pixels: uint16 as int16, all else as it is.

    Torch neither gathers nor index-copies uint16. A view costs nothing, where int32 would double the batch;
    it becomes float by way of its own dtype, in one pass.
    """
    return x.view(torch.int16) if x.dtype == torch.uint16 else x


def check_square(name: str, H: int, W: int) -> None:
    """Raise where a transform would turn images that are not square.

    Raises:
        InputError: with their size.
    """
    if name not in ("none", "imagenet") and H != W:
        raise InputError(f"transform {name!r} needs square images, not {H}x{W}; crop them")


def crop_side(name: str, H: int, W: int) -> int | None:
    """Side of the square that a transform cuts from images of H x W first, or None where it does not."""
    return CROP if name == "paper" and H == W and H > CROP else None


def standardise(x: Tensor) -> Tensor:
    """Shift and scale each image and channel to mean 0 and standard deviation 1 over its pixels, as WILDS.

    A blank channel becomes 0. Resizing leaves a blank channel a spread of about 1e-7 of its level, which must
    not be blown up, while one pixel that differs by one grey level of 8 bits gives at least 1e-6 in images up
    to 3,900 pixels wide. Of 16 bits, a spread below 0.07 levels is taken for blank in the brightest channel.

    Args:
        x: (N, C, H, W), any dtype.

    Returns:
        (N, C, H, W) float32.
    """
    x = x.float()
    # In passes, because torch.var_mean takes five times as long on a CPU; rows first, for float32's sake.
    mean = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
    x = x - mean
    norm = torch.linalg.vector_norm(torch.linalg.vector_norm(x, dim=3, keepdim=True), dim=2, keepdim=True)
    std = norm / math.sqrt(x.shape[2] * x.shape[3] - 1)  # unbiased, as WILDS
    return x.div_(torch.where(std <= 1e-6 * mean.abs(), 1.0, std))


def by_imagenet(x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Resize, and shift and scale all images alike, by the mean and deviation of ImageNet's colours.

    Args:
        x: (N, 3, H, W) uint8 or uint16, or float of 8 bits.
        size: (H', W'), or None.

    Returns:
        (N, 3, H', W') float32.
    """
    most = 65535 if x.dtype == torch.uint16 else 255
    x = resize(x, size).float()
    return torch.stack([(x[:, c] - most * m) / (most * s) for c, (m, s) in enumerate(IMAGENET)], 1)


def check_colours(name: str, channels: int) -> None:
    """Raise where images that are not RGB would be scaled as colours.

    Raises:
        InputError: with their channels.
    """
    if name == "imagenet" and channels != len(IMAGENET):
        raise InputError(f"transform imagenet is for red, green and blue, not {channels} channels; give none")


def resize(x: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Bilinear, antialiased; unchanged where the size is None or already met.

    Args:
        x: (N, C, H, W), any dtype.
        size: (H', W').

    Returns:
        (N, C, H', W'), float32 where resized.
    """
    if size is None or tuple(size) == tuple(x.shape[-2:]):
        return x
    return F.interpolate(x.float(), size=tuple(size), mode="bilinear", align_corners=False, antialias=True)


def draw_rxrx1(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """WILDS' draws, quarter turns and then a horizontal flip with p=.5, for `reorient`: three (n,) bool."""
    k = _integers(4, n, generator)
    flip = _integers(2, n, generator) == 1
    return k % 2 == 1, (k == 1) | (k == 2), ((k == 2) | (k == 3)) ^ flip


def draw_paper(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """ABRA's draws, both flips with p=.5 and then with p=.5 one to three quarter turns: three (n,) bool.

    A transposition that comes after the flips swaps them.
    """
    horizontal, vertical, turns = (_integers(2, n, generator) == 1 for _ in range(3))
    k = torch.where(turns, 1 + _integers(3, n, generator), 0)
    transpose = k % 2 == 1
    down = torch.where(transpose, horizontal, vertical) ^ ((k == 1) | (k == 2))
    across = torch.where(transpose, vertical, horizontal) ^ ((k == 2) | (k == 3))
    return transpose, down, across


def draw_iid(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Wu et al.'s draws, both flips with p=.5 and then a transposition with p=.5: three (n,) bool."""
    horizontal, vertical, transpose = (_integers(2, n, generator) == 1 for _ in range(3))
    return (
        transpose,
        torch.where(transpose, horizontal, vertical),
        torch.where(transpose, vertical, horizontal),
    )


def reorient(x: Tensor, transpose: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Transpose, then reverse the rows, then the columns of those images that say so: the dihedral group.

    A quarter turn counter-clockwise is a transposition and reversed rows. Grouping by the eight elements took
    9 ms for 32 images of 3x256x256 on one core, three torch.where over the batch 25 ms, one gather 24 ms.

    Args:
        x: (N, C, H, W), square where transposed.
        transpose: (N,) bool on the host.
        down: (N,) bool on the host, reverse the rows.
        across: (N,) bool on the host, reverse the columns.
    """
    out = torch.empty_like(x)
    for element in range(8):
        wanted = bool(element & 4), bool(element & 2), bool(element & 1)
        rows = torch.nonzero((transpose == wanted[0]) & (down == wanted[1]) & (across == wanted[2])).flatten()
        if not len(rows):
            continue
        rows = rows.to(x.device, non_blocking=True)
        y = x.index_select(0, rows)
        y = y.transpose(2, 3) if wanted[0] else y
        out.index_copy_(0, rows, y.flip([d for d, flips in ((2, wanted[1]), (3, wanted[2])) if flips]))
    return out


def draw_corners(n: int, positions: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uniform top left corners: two (n,) int64 in [0, positions)."""
    return _integers(positions, n, generator), _integers(positions, n, generator)


def crop(x: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """A square of each image.

    Args:
        x: (N, C, H, W).
        top: (N,) int64 on the host.
        left: (N,) int64 on the host.
        side: of the square.

    Returns:
        (N, C, side, side).
    """
    # One copy of N views: 0.5 ms for 8 images of 6x512x512 on one core, where indexing took 7 to 14 ms.
    corners = zip(top.tolist(), left.tolist(), strict=True)
    return torch.cat([x[n : n + 1, :, i : i + side, j : j + side] for n, (i, j) in enumerate(corners)])


def draw_squares(n: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Top, left and side of uniform squares inside an image of this side, half of it or more: (n,) int64."""
    smallest = round(ZOOM * side)
    sides = smallest + _integers(side - smallest + 1, n, generator)
    # In float64: in float32 a draw next to 1 times a number of positions can round up to that number.
    shares = torch.rand(2, n, generator=generator, device=generator.device, dtype=torch.float64).cpu()
    top, left = (shares * (side - sides + 1)).long()
    return top, left, sides


def zoom(x: Tensor, top: Tensor, left: Tensor, side: Tensor) -> Tensor:
    """A square of each image, stretched to the whole image by repeating the pixel to the upper left.

    Args:
        x: (N, C, H, W), square.
        top: (N,) int64 on the host.
        left: (N,) int64 on the host.
        side: (N,) int64 on the host.
    """
    # Three numbers an image travel and no table, whose copy from pageable memory the host would wait for.
    top, left, side = torch.stack([top, left, side]).to(x.device, non_blocking=True)[
        :, :, None
    ]  # (N, 1) each
    steps = torch.arange(x.shape[-1], device=x.device) * side // x.shape[-1]  # (N, H)
    x = x.gather(2, (top + steps)[:, None, :, None].expand(x.shape))
    return x.gather(3, (left + steps)[:, None, None, :].expand(x.shape))


def pixel_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """A gain from N(1, GAIN^2) and an offset from N(0, OFFSET^2) for each image and channel, in place.

    Args:
        x: (N, C, H, W) float32, standardised.
        generator: the only source of randomness.
    """
    a, b = torch.randn(2, *x.shape[:2], 1, 1, generator=generator, device=generator.device).to(
        x.device, non_blocking=True
    )
    return x.mul_(1 + GAIN * a).add_(OFFSET * b)


def _integers(high: int, n: int, generator: torch.Generator) -> Tensor:
    """Uniform in [0, high), (n,) int64 on the host."""
    return torch.randint(high, (n,), generator=generator, device=generator.device).cpu()
