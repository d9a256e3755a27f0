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

    The foreground is what is brighter than the threshold of Otsu (1979), which parts an image's histogram
    into two of the least variance; its share stands for how many cells there are.
    """
    flat = x.flatten(2).float()  # (N, C, P)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    bins = ((flat - low) / (high - low).clamp(min=1e-6) * (LEVELS - 1)).round().long()
    counts = torch.zeros(*flat.shape[:2], LEVELS, device=x.device)
    counts.scatter_add_(2, bins, torch.ones_like(flat))
    share = counts / flat.shape[2]
    below = share.cumsum(2)  # (N, C, LEVELS) the share at or below each level
    level = torch.arange(LEVELS, device=x.device, dtype=flat.dtype)
    mass = (share * level).cumsum(2)
    between = (mass[..., -1:] * below - mass) ** 2 / (below * (1 - below)).clamp(min=1e-6)
    above = 1 - below.gather(2, between.argmax(2, keepdim=True))[..., 0]  # (N, C)
    return torch.cat([flat.mean(2), flat.std(2, correction=0), above], dim=1)


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
