"""Which images show control wells, and which classes are treatments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.data.datasets.metadata import refuse_wrong
from abra_wilds.data.datasets.tables import read_table
from abra_wilds.errors import InputError

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset

WELL_TYPES = ("treatment", "positive_control", "negative_control")
N_CLASSES, FIRST_CONTROL = 1139, 1108  # of RxRx1: 1,108 treatments, 30 positive controls, 1 negative


def control_rows(dataset: WILDSDataset, kind: str = "all") -> NDArray[np.bool_]:
    """Whether each row of the data set shows a control well, (n,).

    In RxRx1 all plates have the same 30 positive controls (siRNAs whose effect is known) and one untreated
    negative control, one well each, at two sites.

    Args:
        dataset: with a table metadata.csv.
        kind: "all", "positive", "negative" or "none".

    Raises:
        InputError: if the column well_type holds anything else, or is missing and the classes are not
            RxRx1's.
    """
    path = Path(dataset.data_dir) / "metadata.csv"
    found = kinds_of(dataset, path)
    if found is None:
        raise InputError(
            f"{path} has no column well_type, and {dataset.n_classes} classes are not the {N_CLASSES} of "
            f"RxRx1, whose controls are known; add the column with {', '.join(WELL_TYPES)}"
        )
    return np.isin(found, [f"{kind}_control"] if kind != "all" else WELL_TYPES[1:])


def has_controls(dataset: WILDSDataset) -> bool:
    """Whether it is known which rows show control wells.

    Raises:
        InputError: if the column well_type holds anything but WELL_TYPES.
    """
    return kinds_of(dataset, Path(dataset.data_dir) / "metadata.csv") is not None


def kinds_of(dataset: WILDSDataset, path: Path) -> NDArray[np.str_] | None:
    """Kind of each row's well (n,), as `known_kinds`."""
    if hasattr(dataset, "well_kinds"):
        found: NDArray[np.str_] | None = dataset.well_kinds
        return found
    if not path.exists():
        return None
    kinds = read_table(path, ["sirna_id"], optional=["well_type"]).get("well_type")
    return known_kinds(kinds, dataset.y_array.numpy(), int(dataset.n_classes), path)


def known_kinds(
    kinds: pd.Series[Any] | None, labels: NDArray[np.int64], n_classes: int, path: Path
) -> NDArray[np.str_] | None:
    """Which of WELL_TYPES each row's well is, (n,), or None if nothing says it.

    Args:
        kinds: (n,) the column well_type, or None without it; RxRx1's class ids then say it, where there are
            exactly its 1,139 classes.
        labels: (n,) class ids.
        n_classes: of the data set.
        path: of the table, for messages.

    Raises:
        InputError: if the column holds anything else.
    """
    if kinds is None:
        if n_classes != N_CLASSES:
            return None
        treatment, positive, negative = WELL_TYPES
        control = np.where(labels == N_CLASSES - 1, negative, positive)
        return np.where(labels < FIRST_CONTROL, treatment, control)
    check_well_types(kinds, path)
    found: NDArray[np.str_] = kinds.to_numpy(dtype=str)
    return found


def treatment_classes(
    is_control: NDArray[np.bool_] | None, labels: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """The classes (T,) that no control well shows, in order, or None if there is none or it is not known.

    Args:
        is_control: (n,) of `known_kinds` those that are no treatments.
        labels: (n,) class ids.
    """
    if is_control is None:
        return None
    found = np.setdiff1d(labels, labels[is_control])
    return found if len(found) else None


def check_well_types(kinds: pd.Series[Any], path: Path) -> None:
    """Refuse a column well_type with anything but WELL_TYPES.

    Raises:
        InputError: with the first wrong line.
    """
    refuse_wrong(kinds, path, ~kinds.isin(WELL_TYPES).to_numpy(), f"one of {', '.join(WELL_TYPES)}")
