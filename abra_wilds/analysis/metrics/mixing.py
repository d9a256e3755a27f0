"""How far embeddings of wells mix experiments and keep classes apart, by measures of our own.

A silhouette takes the nearest of the other groups, so that with many small groups it lies far below 0 where
names mean nothing; its chance is that of shuffled names in the same embedding. Classes are shuffled inside
experiments and experiments inside classes, so that what the other does stays as it is.

Letters: n wells, D features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances, silhouette_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from abra_wilds.analysis.metrics.wells import Found, Wells, mean_by
from abra_wilds.analysis.postprocess import Floats

NEIGHBOURS = 15
FOLDS = 3
SHUFFLES = 5


def silhouette_batch(f: Floats, wells: Wells) -> Found:
    """Euclidean silhouette of experiments (Rousseeuw 1987), and of experiments shuffled inside classes."""
    return silhouette(f, wells.batch, wells.label)


def silhouette_label(f: Floats, wells: Wells) -> Found:
    """Euclidean silhouette of classes, and of classes shuffled inside experiments."""
    return silhouette(f, wells.label, wells.batch)


def silhouette(f: Floats, names: NDArray[Any], within: NDArray[Any]) -> Found:
    """The silhouette of groups, and the mean of that of shuffled ones, which a fixed seed repeats.

    Args:
        f: (n, D).
        names: (n,) of the groups.
        within: (n,); only rows that are equal here change names.
    """
    distance, rng = pairwise_distances(f), np.random.default_rng(0)  # (n, n)

    def score(found: NDArray[Any]) -> float:
        return float(silhouette_score(distance, found, metric="precomputed"))

    chance = float(np.mean([score(shuffled(names, within, rng)) for _ in range(SHUFFLES)]))
    return Found(score(names), chance)


def shuffled(names: NDArray[Any], within: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Names (n,) in random order among the rows that are equal in `within` (n,)."""
    order = rng.permutation(len(names))
    found = np.empty_like(names)
    # Both sides are in order of `within`, so that each group meets its own names, in random order.
    found[np.argsort(within, kind="stable")] = names[order][np.argsort(within[order], kind="stable")]
    return found


def knn_purity(f: Floats, wells: Wells) -> Found:
    """The share of a well's nearest neighbours that are of its experiment; chance is that of all others."""
    k = min(NEIGHBOURS, len(f) - 1)
    near = NearestNeighbors(n_neighbors=k).fit(f).kneighbors(return_distance=False)  # (n, k), never itself
    batch = wells.batch
    _, code, sizes = np.unique(batch, return_inverse=True, return_counts=True)
    chance = float(((sizes[code] - 1) / (len(f) - 1)).mean())
    return mean_by(wells.label, (batch[near] == batch[:, None]).mean(1), chance)


def batch_accuracy(f: Floats, wells: Wells) -> Found:
    """How often a logistic regression names the experiment of wells whose class it has not seen.

    Chance is the share of the largest experiment.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    batch, label = wells.batch, wells.label
    folds = GroupKFold(min(FOLDS, len(np.unique(label))))
    named = cross_val_predict(model, f, batch, groups=label, cv=folds)
    chance = float(np.unique(batch, return_counts=True)[1].max() / len(batch))
    return mean_by(label, (named == batch).astype(float), chance)
