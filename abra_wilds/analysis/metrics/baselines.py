"""What no training gives, for the same images: an untrained backbone, channel statistics, and plate position.

Letters: n images, N of a batch, C channels, D features.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from abra_wilds.analysis.saved import Saved
from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.data.reading.prefetch import prefetched
from abra_wilds.dist import sum_across_ranks
from abra_wilds.engine.evaluation.evaluate import reestimate_bn
from abra_wilds.engine.precision import configure_precision
from abra_wilds.engine.setup import build_method

UNTRAINED, CHANNELS, POSITION = "untrained backbone", "channel statistics", "plate position"
LEVELS = 256  # of the histogram that a threshold is drawn in
TWO_SIDED = 0.68
_ROW_AND_COLUMN = re.compile(r"([A-Za-z]+)(\d+)")


def untrained_copy(saved: Saved, loaders: Mapping[str, Loader]) -> tuple[Saved, NDArray[np.float32]]:
    """The model with the weights that a run of its seed begins with, and channel statistics of all images.

    Weights are random, also where the run began with pretrained ones. Its batch norms have the statistics of
    the images themselves: without any, deep random networks are all but constant.

    Args:
        saved: the trained model.
        loaders: of the splits, read once.

    Returns:
        The copy, and (n, 3C) as of `channel_statistics`, standardised over images because their units differ.
    """
    device, config = saved.setup.device, saved.config
    method = build_method(config, saved.setup.info, load=False).to(device).eval()
    configure_precision(method, config.speed)
    n, C = sum(len(loader.rows) for loader in loaders.values()), saved.setup.shape[0]
    statistics = torch.zeros(n, 3 * C, device=device)

    def images() -> Iterator[Tensor]:
        start = 0
        for loader in loaders.values():
            for _, batch in prefetched(loader, device):
                statistics[start + batch.rows] = channel_statistics(batch.x)
                if len(batch) > 1:  # a batch norm needs two values
                    yield augment(batch.x, "none", size=config.data.size)
            start += len(loader.rows)

    stream = images()
    reestimate_bn(method, method.predict, stream)
    for _ in stream:  # a backbone without batch norms reads none
        pass
    return replace(saved, method=method), standardised(sum_across_ranks(statistics).cpu().numpy())


def channel_statistics(x: Tensor) -> Tensor:
    """Mean, standard deviation and foreground share of each channel, (N, 3C), of images (N, C, H, W).

    The share of the foreground stands for how many cells there are.
    """
    flat = x.flatten(2).float()  # (N, C, P)
    share = foreground(x).float().mean((2, 3))
    return torch.cat([flat.mean(2), flat.std(2, correction=0), share], dim=1)


def foreground(x: Tensor) -> Tensor:
    """What is above Otsu's threshold in each channel, (N, C, H, W) bool, of images of this shape.

    Means over 3 x 3 pixels are compared, since noise has no place. A channel whose two sides explain no more
    of its variance than those of noise (2 / pi = 0.64) has no foreground.
    """
    smooth = F.avg_pool2d(x.float(), 3, 1, 1, count_include_pad=False)
    threshold, explained = (v[..., None, None] for v in otsu(smooth))
    return (smooth > threshold) & (explained > TWO_SIDED)


def otsu(x: Tensor) -> tuple[Tensor, Tensor]:
    """The threshold of Otsu (1979) of each channel of images (N, C, H, W).

    It parts a histogram of 256 levels into two sides of the least variance.

    Returns:
        The threshold, and the share of the variance that the two sides explain, (N, C) each.
    """
    flat = x.flatten(2).float()  # (N, C, P)
    low = flat.amin(2, keepdim=True)
    width = (flat.amax(2, keepdim=True) - low) / (LEVELS - 1)
    bins = ((flat - low) / width.clamp(min=1e-6)).round().long()
    counts = torch.zeros(*flat.shape[:2], LEVELS, device=x.device)
    share = counts.scatter_add_(2, bins, torch.ones_like(flat)) / flat.shape[2]
    level = torch.arange(LEVELS, device=x.device, dtype=flat.dtype)
    below = share.cumsum(2)  # (N, C, LEVELS) the share at or below each level
    mass = (share * level).cumsum(2)
    mean = mass[..., -1:]
    between, at = ((mean * below - mass) ** 2 / (below * (1 - below)).clamp(min=1e-6)).max(2)
    variance = (share * (level - mean) ** 2).sum(2)
    return low[..., 0] + (at + 0.5) * width[..., 0], between / variance.clamp(min=1e-6)


def standardised(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (n, D) with mean 0 and standard deviation 1; one that never changes is 0."""
    spread = features.std(0, dtype=np.float64)
    centred = features - features.mean(0, dtype=np.float64)
    scaled: NDArray[np.float32] = (centred / np.where(spread > 0, spread, 1)).astype(np.float32)
    return scaled


def plate_position(table: pd.DataFrame) -> NDArray[np.float32]:
    """Where each image's well is on its plate, (n, rows + columns): an indicator of each row and column.

    A name that is not letters and a number counts as a row of its own.
    """
    parts = [_ROW_AND_COLUMN.fullmatch(str(name)) for name in table["Metadata_Well"]]
    rows = [str(name) if p is None else p[1] for name, p in zip(table["Metadata_Well"], parts, strict=True)]
    columns = ["" if p is None else str(int(p[2])) for p in parts]
    found = [pd.get_dummies(pd.Series(names)).to_numpy(dtype=np.float32) for names in (rows, columns)]
    return np.concatenate(found, axis=1)
