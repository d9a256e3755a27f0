"""Predictions as tables for people: names and probabilities of each site and each well.

Letters: n sites, W wells, O classes, k names that are listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

LISTED = 5
SITE_COUNT = "Metadata_Site_Count"


def predicted_columns(log_probs: Tensor, classes: Sequence[str]) -> pd.DataFrame:
    """The columns that say what is predicted, (n rows).

    Predicted and Probability are the likeliest class; Predicted_2, Probability_2 ... the next, up to LISTED;
    Entropy is in nats.

    Args:
        log_probs: (n, O).
        classes: (O,) names.
    """
    p = log_probs.double().exp()
    k = min(LISTED, len(classes))
    values, at = p.topk(k, 1)
    names = np.array(classes, dtype=object)[at.numpy()]
    columns: dict[str, Any] = {}
    for j in range(k):
        end = "" if j == 0 else f"_{j + 1}"
        columns[f"Predicted{end}"] = names[:, j]
        columns[f"Probability{end}"] = values[:, j].numpy()
    columns["Entropy"] = -torch.special.xlogy(p, p).sum(1).numpy()
    return pd.DataFrame(columns)


def calibrated(logits: Tensor, temperature: Tensor) -> Tensor:
    """Log-probabilities (n, O) in float64 of logits by each row's temperature (n,), 1 where not known."""
    return (logits.double() / temperature.double()[:, None]).log_softmax(1)


def counted_in_wells(well: NDArray[np.int64], flags: NDArray[np.object_] | None) -> NDArray[np.bool_]:
    """Which sites (n,) count in their wells: flagged ones only where the well has no others.

    Args:
        well: (n,) number of each site's well, from 0 without gaps.
        flags: (n,) of quality control, "" where nothing is wrong; None where nothing is known.
    """
    fine: NDArray[np.bool_] = np.ones(len(well), dtype=bool) if flags is None else flags == ""
    lost: NDArray[np.bool_] = np.bincount(well[fine], minlength=int(well.max()) + 1) == 0
    return fine | lost[well]


def well_log_probs(log_probs: Tensor, well: NDArray[np.int64], counted: NDArray[np.bool_]) -> Tensor:
    """Log-probabilities of wells (W, O): the mean over their sites (n, O), normalised again.

    Args:
        log_probs: (n, O) of sites.
        well: (n,) number of each site's well, from 0 without gaps.
        counted: (n,) which sites count; one of each well or more.
    """
    W = int(well.max()) + 1
    weight = torch.from_numpy(counted).double()[:, None]
    of = torch.tensor(well)
    sums = torch.zeros(W, log_probs.shape[1], dtype=torch.float64)
    sums.index_add_(0, of, weight * log_probs.double())
    counts = torch.zeros(W, 1, dtype=torch.float64).index_add_(0, of, weight)
    return (sums / counts).log_softmax(1)


def wells_of_screen(table: pd.DataFrame, by: Sequence[str]) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """The number of each site's well (n,), and the metadata of wells (W rows), in order of first appearance.

    Columns that differ between the sites of a well are left out, and the number of sites is added.

    Args:
        table: (n rows) of sites.
        by: columns that name a well together.
    """
    well: NDArray[np.int64] = table.groupby(list(by), sort=False, dropna=False).ngroup().to_numpy()
    first = np.unique(well, return_index=True)[1]
    same = [
        name
        for name in table.columns
        if name in by or bool((table[name].astype(str).to_numpy() == _spread(table[name], first, well)).all())
    ]
    wells = table.iloc[first][same].reset_index(drop=True)
    wells.insert(wells.columns.get_loc(list(by)[-1]) + 1, SITE_COUNT, np.bincount(well))
    return well, wells


def _spread(column: pd.Series[Any], first: NDArray[np.int64], well: NDArray[np.int64]) -> NDArray[np.object_]:
    """The value of each well's first site at every site of it, as text."""
    found: NDArray[np.object_] = column.astype(str).to_numpy()[first][well]
    return found


def agreement(predicted: Sequence[str], labels: Sequence[Any]) -> dict[str, float]:
    """Scores of rows with a label: how many, the share that is right, and its mean over classes.

    Args:
        predicted: (n,) names.
        labels: (n,) names, None where there is none.
    """
    known = [(p, str(y)) for p, y in zip(predicted, labels, strict=True) if isinstance(y, str)]
    if not known:
        return {}
    right: dict[str, list[bool]] = {}
    for p, y in known:
        right.setdefault(y, []).append(p == y)
    shares = [sum(hits) / len(hits) for hits in right.values()]
    total = sum(map(sum, right.values())) / len(known)
    return {"n": len(known), "accuracy": total, "balanced_accuracy": sum(shares) / len(shares)}


def nearest_classes(features: Tensor, centroids: Tensor, classes: Sequence[str]) -> pd.DataFrame:
    """The known classes whose mean features are nearest by cosine, (n rows): Nearest, Cosine, Nearest_2 ...

    Cosines are of what is left when the mean over classes is taken off: features are all positive, and would
    all point the same way.

    Args:
        features: (n, D), such as means of wells.
        centroids: (O, D); a class without any is NaN, and near nothing.
        classes: (O,) names.
    """
    known = ~centroids.isnan().any(1)
    c, names = centroids[known].double(), np.array(classes, dtype=object)[known.numpy()]
    mean = c.mean(0)
    unit = torch.nn.functional.normalize
    cosines = unit(features.double() - mean, dim=1) @ unit(c - mean, dim=1).T
    values, at = cosines.topk(min(LISTED, len(names)), 1)
    columns: dict[str, Any] = {}
    for j in range(values.shape[1]):
        end = "" if j == 0 else f"_{j + 1}"
        columns[f"Nearest{end}"], columns[f"Cosine{end}"] = names[at[:, j].numpy()], values[:, j].numpy()
    return pd.DataFrame(columns)
