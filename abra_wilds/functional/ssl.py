"""What self-supervised methods compute beside losses of lightly: schedules, masks, the sign of collapse.

NT-Xent and the loss of hidden patches are ours although lightly has both: there they choose by boolean
masks, for which the host waits for the device in every step. The tests hold them equal.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from abra_wilds.functional.precision import at_least_fp32

# DINOv2's blocks (arXiv 2304.07193, facebookresearch/dinov2 b8931f7): least patches, least and largest
# height / width, and how often a block is tried before masking goes on patch by patch.
BLOCK_PATCHES, BLOCK_ASPECT, BLOCK_TRIES = 4, (0.3, 1 / 0.3), 10


def projection_spread(z: Tensor) -> Tensor:
    """Standard deviation of unit projections over the batch, in units of 1 / sqrt(D): the collapse check.

    About 1 where projections fill the sphere, 0 where all are alike.

    Args:
        z: (N, D).

    Returns:
        () detached.
    """
    unit = F.normalize(at_least_fp32(z.detach()), dim=1)
    return unit.std(0, correction=0).mean() * math.sqrt(z.shape[1])


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy of two views (SimCLR, arXiv 2002.05709, Eq. 1).

    Args:
        z_a: (N, D) projections of the first views.
        z_b: (N, D) of the second.
        temperature: tau.

    Returns:
        (), the mean over all 2N views of picking the partner among the other 2N - 1.
    """
    z = F.normalize(torch.cat([z_a, z_b]), dim=1)  # (2N, D)
    row = torch.arange(len(z), device=z.device)
    itself = row[:, None] == row
    similarity = (z @ z.T / temperature).masked_fill(itself, -math.inf)  # (2N, 2N)
    return F.cross_entropy(similarity, row.roll(len(z_a)))


def patch_loss(teacher: Tensor, student: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross-entropy of the student's assignments of hidden patches to the teacher's (iBOT).

    Args:
        teacher: (M, K) logits of M patches that the teacher sees, centred and sharpened.
        student: (M, K) logits of the same patches, hidden from the student.
        weight: (M,) of each patch.
    """
    losses = -(F.softmax(teacher, dim=1) * F.log_softmax(student, dim=1)).sum(1)  # (M,)
    return (losses * weight.to(losses.dtype)).sum()


def momentum_at(start: float, progress: float) -> float:
    """The teacher's momentum, from `start` to 1 along half a cosine (BYOL, arXiv 2006.07733, section 3.2).

    >>> momentum_at(0.9, 0.0), round(momentum_at(0.9, 0.5), 3), momentum_at(0.9, 1.0)
    (0.9, 0.95, 1.0)
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def ramp(start: float, end: float, at: float, length: float) -> float:
    """From `start` to `end` in a straight line over `length`, and `end` from there on."""
    return end if at >= length else start + (end - start) * at / length


def block_masks(
    n: int, grid: tuple[int, int], share: float, ratios: tuple[float, float], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Block masks as DINOv2 draws them, from torch's default generator on the host.

    int(n * share) images, at least one, are masked. The i-th of them, in a random order, hides a share of
    its patches that is uniform in the i-th of equal parts of `ratios`; of the number so drawn it hides
    exactly so many.

    Args:
        n: images.
        grid: (h, w) patches of an image.
        share: of the images that are masked.
        ratios: least and largest share of its patches that such an image hides.
        device: where the result lives.

    Returns:
        (n, h, w) bool; the positions (M,) int64 of what is true in its flattened form, whose number the host
        knows, so that choosing by them needs no wait; and weights (M,) float64 that make a sum over hidden
        patches the mean over an image's, summed over images and divided by n.
    """
    masked = max(1, int(n * share))
    edges = np.linspace(*ratios, masked + 1)
    draws = torch.rand(masked, dtype=torch.float64).numpy()
    patches = grid[0] * grid[1]
    counts = np.maximum(1, (patches * (edges[:-1] + draws * np.diff(edges))).astype(int))
    masks = np.zeros((n, *grid), dtype=bool)
    for image, count in zip(torch.randperm(n)[:masked].tolist(), counts, strict=True):
        masks[image] = _block_mask(grid, int(count))
    hidden = np.flatnonzero(masks)
    weight = 1 / (n * masks.sum((1, 2))[hidden // patches])
    weight = weight.astype(np.float32 if device.type == "mps" else np.float64)  # which MPS does not have
    # A blocking copy would make the host wait for all that the device has still to do.
    on_host = (torch.from_numpy(t) for t in (masks, hidden, weight))
    masks_, hidden_, weight_ = (t.to(device, non_blocking=True) for t in on_host)
    return masks_, hidden_, weight_


def _block_mask(grid: tuple[int, int], count: int) -> NDArray[np.bool_]:
    """A mask (h, w) of exactly `count` patches: blocks while they fit, single patches for the rest."""
    (h, w), (low, high) = grid, BLOCK_ASPECT
    mask = np.zeros(grid, dtype=bool)
    tries = 0
    while tries < BLOCK_TRIES and (left := count - int(mask.sum())) >= BLOCK_PATCHES:
        area, shape, top, side = torch.rand(4, dtype=torch.float64).tolist()
        area = BLOCK_PATCHES + area * (left - BLOCK_PATCHES)
        aspect = low * (high / low) ** shape  # uniform in the logarithm
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        new = mask.copy()
        i, j = int(top * (h - rows + 1)), int(side * (w - columns + 1))
        fits = 0 < rows <= h and 0 < columns <= w
        if fits:
            new[i : i + rows, j : j + columns] = True
        fits = fits and mask.sum() < new.sum() <= count
        tries = 0 if fits else tries + 1
        mask = new if fits else mask
    free = np.flatnonzero(~mask)
    rest = torch.randperm(len(free))[: count - int(mask.sum())].numpy()
    mask.reshape(-1)[free[rest]] = True
    return mask
