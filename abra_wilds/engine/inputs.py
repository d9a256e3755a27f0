"""From a loader's batch to what a method sees: views, or augmented and mixed images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from abra_wilds.config.data import DataConfig
from abra_wilds.data.augment.mixing import mix
from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.augment.views import check_sides, make_views
from abra_wilds.types import Batch, ViewPlan


def check_views(shape: Sequence[int], d: DataConfig, views: ViewPlan | None) -> None:
    """Raise where the views that a method asks for cannot be made of the images.

    Args:
        shape: (C, H, W) of an image.
        d: how images are augmented.
        views: what the method's `view_plan` asks for.

    Raises:
        InputError: with their size.
    """
    if views is not None:
        _, H, W = shape
        check_sides(H, W, d.size)


def learned_rows(batch: Batch, device: torch.device) -> Tensor | slice:
    """Which rows of a batch on the host are not context, to index with on the device."""
    if batch.context is None:
        return slice(None)
    return torch.nonzero(~batch.context).flatten().to(device, non_blocking=True)


def method_batch(
    batch: Batch, d: DataConfig, views: ViewPlan | None, draws: torch.Generator, rng: np.random.Generator
) -> Batch:
    """The batch that a training step is made of.

    Args:
        batch: as the loader hands it over, on the method's device.
        d: how images are augmented and mixed.
        views: what the method's `view_plan` asks for; these then take the place of augmentation.
        draws: of augmentation and views.
        rng: of mixing.
    """
    if views is not None:
        made = make_views(batch.x, views, draws, d.size)
        return replace(batch, x=made[0], views=made)
    x = augment(batch.x, d.transform, draws, d.size, cropped=batch.cropped)
    batch = replace(batch, x=x)
    return mix(batch, d.mix, rng, d.cutmix_alpha, d.cutmix_prob)
