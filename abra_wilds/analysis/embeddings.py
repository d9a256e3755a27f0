"""Embeddings of train and test images in two dimensions (ABRA, Figs. 9 and 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abra_wilds.analysis.saved import IMAGES_PER_BIO_BATCH, Saved, sampled
from abra_wilds.data.samplers.batches import even_chunks
from abra_wilds.errors import InputError
from abra_wilds.tta.bn_state import buffers_put_back, statistics_of_input

POINTS = 5_000
LEAST = 8
FIELDS = ("cell_type", "experiment", "plate", "well", "site")


@dataclass(frozen=True)
class EmbeddedPoint:
    """An image in the plane.

    Attributes:
        x: first coordinate; neither has a unit.
        y: second coordinate.
        projection: "UMAP" or "PCA".
        statistics: of the batch norms: "running", or "bio-batch" after adaptation.
        of: images there were to choose from.
        split: the image's.
        cell_type: its cell line.
        experiment: its experiment.
        plate: its plate.
        well: its well.
        site: its site.
    """

    x: float
    y: float
    projection: str
    statistics: str
    of: int
    split: str
    cell_type: str
    experiment: str
    plate: str
    well: str
    site: str


def embedded(
    saved: Saved, splits: Sequence[str] = ("train", "test"), adapted: bool = False, points: int = POINTS
) -> list[EmbeddedPoint]:
    """Pooled features of images of several splits, projected together.

    Of each bio-batch at most 128 random images are taken, by whose statistics all of them are embedded where
    `adapted`; so many of all these, again at random, become points.

    Args:
        saved: the model.
        splits: of its data.
        adapted: embed by the statistics of each bio-batch, as --tta plate_bn predicts.
        points: most points.

    Raises:
        InputError: if there are fewer than 8 images.
    """
    seed = saved.config.train.seed
    features: list[Tensor] = []
    names: list[tuple[str, ...]] = []
    for split in splits:
        parts = sampled(saved.members(split), IMAGES_PER_BIO_BATCH, seed)
        for _, batch in saved.read(split, parts, "features of"):
            features.append(image_features(saved, batch.x, adapted).cpu())
            names += [(split, *named) for named in saved.named(split, batch.rows.numpy(), FIELDS)]
    of = sum(len(saved.setup.subsets[split]) for split in splits)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(names))[:points])
    xy, projection = projected(torch.cat(features).numpy()[chosen], seed)
    statistics = "bio-batch" if adapted else "running"
    return [
        EmbeddedPoint(float(x), float(y), projection, statistics, of, *names[i])
        for (x, y), i in zip(xy, chosen, strict=True)
    ]


@torch.no_grad()
def image_features(saved: Saved, x: Tensor, adapted: bool) -> Tensor:
    """Pooled features (N, D) of the images of one bio-batch (N, C_in, H, W) uint8 or uint16."""
    if adapted:
        with buffers_put_back(saved.method), statistics_of_input(saved.method):
            return saved.method.features(saved.standardised(x))
    parts = even_chunks(np.arange(len(x)), saved.config.data.batch_size)
    return torch.cat([saved.method.features(saved.standardised(x[part])) for part in parts])


def projected(features: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """Two coordinates of each row (n, 2), by UMAP where it is installed, else by PCA, and which it was.

    Features are standardised, so that no channel counts more for its scale. One thread and a seed make UMAP
    repeat itself.

    Args:
        features: (n, D).
        seed: of UMAP.

    Raises:
        InputError: for fewer than 8 rows.
    """
    if len(features) < LEAST:
        raise InputError(
            f"{len(features)} images are too few for a picture of embeddings; take {LEAST} or more"
        )
    spread = features.std(0)
    scaled = (features - features.mean(0)) / np.where(spread > 0, spread, 1)
    kind = umap_class()
    if kind is None:
        from sklearn.decomposition import PCA

        return PCA(2, svd_solver="full").fit_transform(scaled), "PCA"
    n_neighbors = min(15, len(features) - 1)
    return kind(n_neighbors=n_neighbors, random_state=seed, n_jobs=1).fit_transform(scaled), "UMAP"


def umap_class() -> Any | None:
    """UMAP, or None where umap-learn is not installed."""
    try:
        from umap import UMAP
    except ImportError:
        return None
    return UMAP
