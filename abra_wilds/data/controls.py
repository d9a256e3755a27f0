"""Which images show control wells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from abra_wilds.errors import InputError

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset

WELL_TYPES = ("treatment", "positive_control", "negative_control")
N_CLASSES, FIRST_CONTROL = 1139, 1108  # of RxRx1: 1,108 treatments, 30 positive controls, 1 negative


def control_rows(dataset: WILDSDataset) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each row of the data set shows a control well, (n,).

    All controls count: in RxRx1 the same 30 positive controls (siRNAs whose effect is known) and one
    untreated negative control, one well each on every plate, at two sites. The column well_type of
    metadata.csv says which they are; a metadata.csv without it is read by RxRx1's class ids, where it has
    exactly its 1,139 classes.

    Raises:
        InputError: if the column holds anything else, or is missing and the classes are not RxRx1's.
    """
    path = Path(dataset.data_dir) / "metadata.csv"
    if "well_type" not in pd.read_csv(path, nrows=0).columns:
        if int(dataset.n_classes) != N_CLASSES:
            raise InputError(
                f"{path} has no column well_type, and {dataset.n_classes} classes are not the {N_CLASSES} of "
                f"RxRx1, whose controls are known; add the column with {', '.join(WELL_TYPES)}"
            )
        return np.asarray(dataset.y_array.numpy() >= FIRST_CONTROL)
    kinds = pd.read_csv(path, usecols=["well_type"])["well_type"].to_numpy(dtype=object)
    wrong = ~np.isin(kinds.astype(str), WELL_TYPES)
    if wrong.any():
        k = int(wrong.argmax())
        raise InputError(
            f"column well_type of {path} must be one of {', '.join(WELL_TYPES)}; line {k + 2} has "
            f"{str(kinds[k])!r}; correct it"
        )
    return np.asarray(kinds != "treatment", dtype=bool)
