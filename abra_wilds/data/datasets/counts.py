"""How much of what a data set has, split by split, and what deviates.

Letters: n rows of a split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from abra_wilds.config.datasets import known_of
from abra_wilds.results.records import aligned

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset

MOST_CLASSES = 10
MOST_NAMES = 20


def split_rows(dataset: WILDSDataset) -> dict[str, NDArray[np.int64]]:
    """The rows of each split."""
    splits = np.asarray(dataset.split_array)
    return {split: np.flatnonzero(splits == number) for split, number in dataset.split_dict.items()}


def data_lines(dataset: WILDSDataset, rows: Mapping[str, NDArray[Any]]) -> list[str]:
    """Stains, a table of splits, and a note for whatever a reader of it should know.

    Args:
        dataset: from `load_dataset`.
        rows: split -> its rows (n,).
    """
    stains = len(getattr(dataset, "suffixes", ()))
    named = [f"{stains} stain{'s' if stains > 1 else ''} in every plate"] if stains else []
    named += [f"channels: {', '.join(dataset.channels)}"] if hasattr(dataset, "channels") else []
    notes = [*getattr(dataset, "notes", ()), *class_notes(dataset, rows)]
    table = split_table(dataset, rows)
    return [*named, table, *held_out(dataset, rows), *(f"note: {note}" for note in notes)]


def held_out(dataset: WILDSDataset, rows: Mapping[str, NDArray[Any]]) -> list[str]:
    """The bio-batches of splits that share none with train, a line a split."""
    known, fields = known_of(dataset.dataset_name), list(dataset.metadata_fields)
    unit, by = next(iter(known.units.items()))
    names = (getattr(dataset, "metadata_map", None) or {}).get(by[0])
    if names is None or len(by) > 1:
        return []
    own = {split: set(dataset.metadata_array[c, fields.index(by[0])].tolist()) for split, c in rows.items()}
    lines = []
    for split, numbers in own.items():
        if split != "train" and not numbers & own["train"]:
            named = [str(names[int(k)]) for k in sorted(numbers)]
            more = [f"{len(named) - MOST_NAMES:,} more"] if len(named) > MOST_NAMES else []
            lines.append(f"{unit} of {split}: {', '.join([*named[:MOST_NAMES], *more])}")
    return lines


def split_table(dataset: WILDSDataset, rows: Mapping[str, NDArray[Any]]) -> str:
    """Images, classes and the units between, and how many images these have, a line a split."""
    known, fields = known_of(dataset.dataset_name), list(dataset.metadata_fields)
    lines: list[tuple[str, ...]] = [("split", "images", *known.units, "classes", *known.sizes)]
    for split, chosen in rows.items():
        own = dataset.metadata_array[chosen].numpy()
        sizes = {
            unit: np.unique(own[:, [fields.index(f) for f in by]], axis=0, return_counts=True)[1]
            for unit, by in {**known.units, "classes": ("y",)}.items()
        }
        counts = (len(own), *map(len, sizes.values()))
        spreads = (_spread(sizes[unit]) for unit in known.sizes.values())
        lines.append((split, *(f"{count:,}" for count in counts), *spreads))
    return aligned(lines)


def class_notes(dataset: WILDSDataset, rows: Mapping[str, NDArray[Any]]) -> list[str]:
    """Which classes of other splits the training split lacks, a sentence a split."""
    y, notes = dataset.y_array.numpy(), []
    names = getattr(dataset, "class_names", None) or range(int(dataset.n_classes))
    known = y[rows["train"]]
    for split, chosen in rows.items():
        new = np.setdiff1d(y[chosen], known).tolist()
        if new:
            named = [*(str(names[k]) for k in new[:MOST_CLASSES]), *["others"] * (len(new) > MOST_CLASSES)]
            notes.append(f"classes of {split} that train lacks: {len(new):,}, namely {', '.join(named)}")
    return notes


def _spread(sizes: NDArray[np.int64]) -> str:
    """Least and most, one number where they are the same."""
    if not len(sizes):
        return "-"
    return f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
