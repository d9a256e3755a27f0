"""Pictures without cells, or with brightness exchanged; a model that still knows classes has a shortcut.

Letters: N images, C channels, H W of an image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from abra_wilds.analysis.audit.shortcuts import BACKGROUND
from abra_wilds.analysis.metrics.baselines import otsu

MARGIN = 1 / 128  # of the side, around the foreground; cells too


def cells_of(x: Tensor) -> Tensor:
    """Where cells may be, (N, 1, H, W) bool: above Otsu's threshold in any channel, and a margin around it.

    Unlike a foreground this also takes the brighter half of a channel that shows no cells: a pixel of a cell
    that counts as background would do more harm than a pixel of background that is left out.
    """
    smooth = F.avg_pool2d(x.float(), 3, 1, 1, count_include_pad=False)
    cells = (smooth > otsu(smooth)[0][..., None, None]).any(1, keepdim=True)
    margin = max(1, round(MARGIN * x.shape[-1]))
    return F.max_pool2d(cells.float(), 2 * margin + 1, 1, margin) > 0


def gains_swapped(x: Tensor) -> Tensor:
    """Each channel as bright as the next one is, the last as the first."""
    mean = x.float().mean((2, 3), keepdim=True)
    gain = mean.roll(-1, 1) / mean.clamp(min=1e-6)
    return like(x.float() * gain, x)


def cells_masked(x: Tensor) -> Tensor:
    """The mean of the background in place of cells: outlines stay, and where cells are."""
    cells = cells_of(x)
    outside = (~cells).float()
    level = (x.float() * outside).sum((2, 3), keepdim=True) / outside.sum((2, 3), keepdim=True).clamp(min=1)
    return like(torch.where(cells, level, x.float()), x)


def background_only(x: Tensor) -> Tensor:
    """Random pixels of the background in place of cells: neither outlines nor places stay.

    An image without background becomes blank.
    """
    out = x.clone()
    cells, generator = cells_of(x)[:, 0].flatten(1), torch.Generator().manual_seed(0)
    for image, cell in zip(out.flatten(2), cells, strict=True):
        here, there = cell.nonzero()[:, 0], (~cell).nonzero()[:, 0]
        if len(there) == 0:
            image.zero_()
            continue
        drawn = torch.randint(len(there), (len(here),), generator=generator).to(x.device)
        image[:, here] = image[:, there[drawn]]
    return out


def like(found: Tensor, x: Tensor) -> Tensor:
    """Values as pixels of the type of x, inside its range."""
    if x.dtype.is_floating_point:
        return found
    return found.round().clamp(0, torch.iinfo(x.dtype).max).to(x.dtype)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "gains swapped": gains_swapped,
    "cells masked": cells_masked,
    BACKGROUND: background_only,
}
