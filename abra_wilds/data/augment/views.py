"""Augmented views for self-supervision, for any number of channels, with draws of their own for every image.

A view is a random square of the image, resized, turned or mirrored, perhaps blurred, standardised, and
jittered channel by channel. Colour operations (hue, grey, solarisation) have no meaning between fluorescence
channels and are left out. Resizing and blurring are linear along rows and along columns, so one matrix for
each does both, and a batch takes two batched matrix products whatever its images drew.

Letters: N images, C channels, H side of an image, S side of a view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abra_wilds.data.augment.transforms import reorient, standardise
from abra_wilds.errors import InputError
from abra_wilds.types import ViewPlan

# The Gaussian's deviation in pixels of the view (SimCLR, arXiv 2002.05709, appendix A).
BLUR = (0.1, 2.0)
NO_BLUR = 1e-3  # a deviation at which the neighbours' weights underflow to 0


def make_views(
    x: Tensor, plan: ViewPlan, generator: torch.Generator, size: tuple[int, int] | None = None
) -> tuple[Tensor, ...]:
    """Every view of the plan, of every image.

    The jitter comes after the standardisation of each image and channel, which would undo it. It imitates a
    change of stain or exposure, so its strength decides how far features become invariant to bio-batches.

    Args:
        x: (N, C, H, H) uint8 or uint16.
        plan: sizes, scales, jitter and blur.
        generator: the only source of randomness, best on the CPU: then nothing waits for the GPU.
        size: (S, S) of the views whose size is 0; None keeps the image's.

    Returns:
        One (N, C, S_k, S_k) float32 for each size; mean 0 and standard deviation 1 for each image and channel
        but for the jitter.

    Raises:
        InputError: if images or views are not square.
    """
    H, W = x.shape[-2:]
    check_sides(H, W, size)
    side = H if size is None else size[0]
    x = x.float()
    return tuple(
        _view(x, S or side, scale, blur, plan.jitter, generator)
        for S, scale, blur in zip(plan.sizes, plan.scales, plan.blur, strict=True)
    )


def check_sides(H: int, W: int, size: tuple[int, int] | None) -> None:
    """Raise where views cannot be made.

    Args:
        H: height of an image.
        W: width of an image.
        size: as `make_views` has it.

    Raises:
        InputError: if images or views are not square.
    """
    if H != W:
        raise InputError(f"views are squares of square images, not of {H}x{W}; crop them")
    if size is not None and size[0] != size[1]:
        raise InputError(
            f"views are square, but --target_resolution asks for {size[0]}x{size[1]}; give one side"
        )


def _view(
    x: Tensor, S: int, scale: tuple[float, float], blur: float, jitter: float, generator: torch.Generator
) -> Tensor:
    """One view, (N, C, S, S), of images (N, C, H, H) float32."""
    N, C, H, _ = x.shape
    sides, top, left = draw_view_squares(N, H, scale, generator)
    transpose, down, across = (_uniform((N,), generator) < 0.5 for _ in range(3))
    blurred = _uniform((N,), generator) < blur
    sigma = torch.where(blurred, BLUR[0] + (BLUR[1] - BLUR[0]) * _uniform((N,), generator), NO_BLUR)
    gain, offset = jitter * torch.randn(2, N, C, 1, 1, generator=generator, device=generator.device)

    def sent(t: Tensor) -> Tensor:
        return t.to(x.device, non_blocking=True)

    smooth = blur_matrix(sent(sigma), S)  # (N, S, S)
    rows, columns = (smooth @ resize_matrix(sent(at), sent(sides), H, S) for at in (top, left))  # (N, S, H)
    view = rows.unsqueeze(1) @ x @ columns.transpose(1, 2).unsqueeze(1)  # (N, C, S, S)
    view = standardise(reorient(view, transpose.cpu(), down.cpu(), across.cpu()))
    return view + sent(gain) * view + sent(offset)


def draw_view_squares(
    n: int, H: int, scale: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Squares inside an image of side H, their share of its area uniform in `scale`.

    Returns:
        Sides, first rows and first columns, (n,) int64 each.
    """
    share = scale[0] + (scale[1] - scale[0]) * _uniform((n,), generator)
    sides = (share.sqrt() * H).round().clamp(1, H).long()
    top, left = ((_uniform((n,), generator) * (H - sides + 1)).long() for _ in range(2))
    return sides, top, left


def resize_matrix(start: Tensor, length: Tensor, H: int, S: int) -> Tensor:
    """Weights with which S values show `length` of H from `start` on: bilinear and antialiased.

    A triangle around each new pixel's centre, as wide as the step between them and no narrower than a pixel,
    cut at the ends of what is shown and normalised: what `interpolate(mode="bilinear", antialias=True)` does.

    Args:
        start: (N,) int64.
        length: (N,) int64.
        H: pixels there are.
        S: pixels there will be.

    Returns:
        (N, S, H) float32; rows sum to one.
    """
    start, length = start.view(-1, 1, 1), length.view(-1, 1, 1)
    step = length / S  # (N, 1, 1)
    pixel = torch.arange(H, device=start.device).view(1, 1, H)
    centre = start + (torch.arange(S, device=start.device).view(1, S, 1) + 0.5) * step - 0.5  # (N, S, 1)
    weight = (1 - (pixel - centre).abs() / step.clamp(min=1)).clamp(min=0)  # (N, S, H)
    weight = weight * ((pixel >= start) & (pixel < start + length))
    return weight / weight.sum(2, keepdim=True)


def blur_matrix(sigma: Tensor, S: int) -> Tensor:
    """Weights of a Gaussian blur along one side, cut at the borders and normalised.

    Args:
        sigma: (N,) standard deviations in pixels.
        S: pixels.

    Returns:
        (N, S, S) float32; rows sum to one.
    """
    pixel = torch.arange(S, device=sigma.device)
    distance = (pixel[:, None] - pixel[None]) / sigma.view(-1, 1, 1)  # (N, S, S)
    return torch.softmax(-0.5 * distance**2, dim=2)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)
