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


def control_rows(dataset: WILDSDataset) -> NDArray[np.bool_]:
    """Whether each row of the data set shows a control well, (n,).

    All controls count: in RxRx1 the same 30 positive controls (siRNAs whose effect is known) and one
    untreated negative control, one well each on every plate, at two sites.

    Raises:
        InputError: if the column well_type holds anything else, or is missing and the classes are not
            RxRx1's.
    """
    path = Path(dataset.data_dir) / "metadata.csv"
    if hasattr(dataset, "controls"):
        found: NDArray[np.bool_] | None = dataset.controls
    else:
        kinds = read_table(path, ["sirna_id"], optional=["well_type"]).get("well_type")
        found = known_controls(kinds, dataset.y_array.numpy(), int(dataset.n_classes), path)
    if found is None:
        raise InputError(
            f"{path} has no column well_type, and {dataset.n_classes} classes are not the {N_CLASSES} of "
            f"RxRx1, whose controls are known; add the column with {', '.join(WELL_TYPES)}"
        )
    return found


def known_controls(
    kinds: pd.Series[Any] | None, labels: NDArray[np.int64], n_classes: int, path: Path
) -> NDArray[np.bool_] | None:
    """Whether each row shows a control well, (n,), or None if nothing says it.

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
        return np.asarray(labels >= FIRST_CONTROL) if n_classes == N_CLASSES else None
    check_well_types(kinds, path)
    return np.asarray(kinds != "treatment", dtype=bool)


def treatment_classes(
    is_control: NDArray[np.bool_] | None, labels: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """The classes (T,) that no control well shows, in order, or None if there is none or it is not known.

    Args:
        is_control: (n,) from `known_controls`.
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
