"""The wells that metrics are computed on, and what a metric finds on them.

Letters: n wells of a cell line, k treatments, R resamples, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.analysis.postprocess import Floats, Mask, Names
from abra_wilds.errors import InputError

Ints = NDArray[np.int64]
RESAMPLES = 2000
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Wells:
    """Wells of one cell line.

    Attributes:
        batch: (n,) the bio-batch.
        label: (n,) the class.
        plate: (n,) the name of the plate.
        position: (n,) the name of the well on its plate.
        negative: (n,) whether it is a negative control.
        group: (n,) the annotation of the class, "" where it has none; None without annotations.
        pairs: annotations, or classes without those, that are known to be related.
    """

    batch: Names
    label: Ints
    plate: Names
    position: Names
    negative: Mask
    group: Names | None = None
    pairs: Sequence[tuple[str, str]] = ()

    def of(self, rows: Ints | Mask) -> Wells:
        """Some of the wells."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "pairs"}
        return replace(self, **{name: a[rows] for name, a in arrays.items() if a is not None})

    @property
    def units(self) -> Names:
        """What relations are between, (n,): annotations, else classes, as texts."""
        return self.label.astype(str).astype(object) if self.group is None else self.group


@dataclass(frozen=True)
class Found:
    """A metric of the wells of one cell line.

    Attributes:
        value: the metric.
        chance: what it would be of an embedding that says nothing.
        parts: (2, k) sum and number of each treatment, so that the value is the sum of the former over that
            of the latter; None where it is no such mean.
        each: names of treatments or annotations -> numbers about them.
    """

    value: float
    chance: float
    parts: Floats | None = None
    each: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def mean_by(label: NDArray[Any], values: Floats, chance: float) -> Found:
    """The mean of values (n,) over wells, in parts of treatments."""
    code = np.unique(label, return_inverse=True)[1]
    parts = np.stack([np.bincount(code, values), np.bincount(code).astype(float)])
    return Found(float(values.mean()), chance, parts)


def resampled(parts: Sequence[Floats | None], weights: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean over cell lines, by treatments drawn again inside each line.

    The same seed draws alike for all embeddings of the same wells.

    Args:
        parts: (2, k) of each line, as of `Found`.
        weights: of the lines.

    Returns:
        None where a line has no parts.
    """
    rng, draws = np.random.default_rng(0), np.zeros(RESAMPLES)
    for part, weight in zip(parts, weights, strict=True):
        if part is None:
            return None
        k = part.shape[1]
        sums, counts = part[:, rng.integers(k, size=(RESAMPLES, k))].sum(2)  # (R,) each
        draws += weight / sum(weights) * sums / counts
    low, high = np.percentile(draws, INTERVAL)
    return float(low), float(high)


def wells_at(table: pd.DataFrame, rows: Ints, group: str | None, pairs: Sequence[tuple[str, str]]) -> Wells:
    """The wells in some rows of a table from `profiles`.

    Args:
        table: of wells.
        rows: (n,).
        group: its column of annotations.
        pairs: as of `Wells`.
    """
    own = table.iloc[rows]
    names = ("Metadata_Batch", "Metadata_Plate", "Metadata_Well")
    batch, plate, position = (own[name].to_numpy(dtype=object) for name in names)
    label, negative = own["Metadata_sirna_id"].to_numpy(), negatives(table)[rows]
    annotation = None if group is None else own[group].to_numpy(dtype=object)
    return Wells(batch, label, plate, position, negative, annotation, pairs)


def negatives(table: pd.DataFrame) -> Mask:
    """Which wells of a table from `profiles` are negative controls, (n,); none where nothing says it."""
    kind = table.get("Metadata_control_type")
    return np.zeros(len(table), dtype=bool) if kind is None else (kind == "negcon").to_numpy()


def measurable(table: pd.DataFrame) -> dict[str, Ints]:
    """The treatment wells of each cell line that metrics are computed on; lines without any are left out.

    Args:
        table: (n rows) of wells, from `profiles`.

    Raises:
        InputError: if that leaves no line.
    """
    kind = table.get("Metadata_control_type")
    treated = np.ones(len(table), dtype=bool) if kind is None else (kind == "trt").to_numpy()
    found = {}
    for line, rows in table[treated].groupby("Metadata_Cell_Line"):
        seen = rows.groupby("Metadata_sirna_id")["Metadata_Batch"].transform("nunique")
        rows = rows[seen > 1]
        if rows["Metadata_sirna_id"].nunique() > 1:
            found[str(line)] = rows.index.to_numpy()
    if not found:
        raise InputError(
            "--metrics compares experiments of a cell line by siRNAs that they share, and in these splits no "
            "line has two experiments that share two; add splits, or leave it out"
        )
    return found


def whole_classes(label: Ints, most: int, seed: int) -> Ints:
    """Positions of all wells of randomly drawn classes, two and as many as fit into `most` wells."""
    classes, sizes = np.unique(label, return_counts=True)
    order = np.random.default_rng([seed, most]).permutation(len(classes))
    n = max(2, int((np.cumsum(sizes[order]) <= most).sum()))
    return np.flatnonzero(np.isin(label, classes[order[:n]]))
