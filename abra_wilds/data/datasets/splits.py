"""Which rows of a six-channel screen train, validate and test: three schemes over experiments and sites.

Letters: n rows of metadata.csv.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.config.datasets import SPLIT_SCHEMES
from abra_wilds.errors import InputError

# Split -> its id, which is WILDS' for its own four splits, and its name in logs.
SPLIT_NUMBERS = {
    "train": (0, "Train"),
    "val": (1, "Validation (OOD)"),
    "test": (2, "Test (OOD)"),
    "id_test": (3, "Test (ID)"),
}
SCHEMES = SPLIT_SCHEMES["rxrx1_6ch"]


def split_array(rows: pd.DataFrame, scheme: str, path: Path) -> NDArray[np.int64]:
    """The split of each row, (n,), as the ids of SPLITS.

    "official" is the research release's and the ABRA paper's Table 1: 33 training and 18 test experiments,
    both sites, and no validation; rows marked val count as test, from which WILDS took them. "heldout" is the
    same with the last training experiment of each cell line as val. "wilds" is that of RxRx1-WILDS: the last
    of several sites of the training experiments is id_test and the others are train, and of the other
    experiments one a cell line is val (`val_rows`) and the rest test.

    Args:
        rows: from `read_metadata`.
        scheme: one of SCHEMES.
        path: of the metadata, for messages.

    Raises:
        InputError: for another scheme, an experiment that is both training and test, or rows without a
            validation.
    """
    if scheme not in SCHEMES:
        raise InputError(f"unknown split_scheme {scheme!r}; choose one of {', '.join(SCHEMES)}")
    _check_experiments(rows, path)
    training = (rows["dataset"] == "train").to_numpy()
    split = np.where(training, SPLIT_NUMBERS["train"][0], SPLIT_NUMBERS["test"][0])
    if scheme == "heldout":
        split[heldout_rows(rows, path)] = SPLIT_NUMBERS["val"][0]
    if scheme == "wilds":
        split[val_rows(rows, path)] = SPLIT_NUMBERS["val"][0]
        site = rows["site"].to_numpy()
        if site.min() < site.max():
            split[training & (site == site.max())] = SPLIT_NUMBERS["id_test"][0]
    return split


def val_rows(rows: pd.DataFrame, path: Path) -> NDArray[np.bool_]:
    """Whether a row is of RxRx1-WILDS' validation, (n,).

    Rows marked val are. The research release marks none: its test experiments are numbered after the
    training experiments of their line, and WILDS' validation is the first of each line, HEPG2-08, HUVEC-17,
    RPE-08 and U2OS-04. WILDS' package does not name them; they have its 9,854 images (2,462 + 3 x 2,464), a
    public listing of its groups has the experiments 7, 27, 42 and 49 of 0 to 50, and the 2019 competition's
    public leaderboard was counted on them.

    Raises:
        InputError: if nothing is marked and the only test experiment of a line would have to be both.
    """
    marked: NDArray[np.bool_] = (rows["dataset"] == "val").to_numpy()
    if marked.any():
        return marked
    tests = experiments_of(rows, "test")
    single = [line for line, named in tests.items() if len(named) < 2]
    if not tests or single:
        found = f"only one of {', '.join(single)}" if single else "no test experiment"
        raise InputError(
            f"{path} marks no row as val, so that split_scheme 'wilds' takes the first of two or more test "
            f"experiments of each cell line, and it has {found}; mark val in its column dataset or use "
            "--split_scheme official"
        )
    first: NDArray[np.bool_] = rows["experiment"].isin([named[0] for named in tests.values()]).to_numpy()
    return first


def heldout_rows(rows: pd.DataFrame, path: Path) -> NDArray[np.bool_]:
    """Whether a row is of the last training experiment of its cell line, (n,).

    Raises:
        InputError: if that would leave a line without training experiments.
    """
    training = experiments_of(rows, "train")
    single = [line for line, named in training.items() if len(named) < 2]
    if single:
        raise InputError(
            f"split_scheme 'heldout' takes the last of two or more training experiments of each cell line as "
            f"val, and {path} has only one of {', '.join(single)}; use --split_scheme official"
        )
    last: NDArray[np.bool_] = rows["experiment"].isin([named[-1] for named in training.values()]).to_numpy()
    return last


def experiments_of(rows: pd.DataFrame, mark: str) -> dict[str, list[str]]:
    """The experiments of each cell line with a mark in the column dataset, in the order of their numbers."""
    named = rows.loc[rows["dataset"] == mark, ["cell_type", "experiment"]].drop_duplicates()
    by_line = named.groupby("cell_type")["experiment"]
    return {str(line): sorted(found, key=_by_number) for line, found in by_line}


def _by_number(name: str) -> list[str | int]:
    """Sorts HUVEC-9 before HUVEC-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _check_experiments(rows: pd.DataFrame, path: Path) -> None:
    """Refuse what would put images of a test experiment into training."""
    training = rows["dataset"] == "train"
    both = sorted(set(rows.loc[training, "experiment"]) & set(rows.loc[~training, "experiment"]))
    if both:
        raise InputError(
            f"{path} marks some rows of {both[0]} as train and others as test or val, in all of {len(both)} "
            "experiments; an experiment is one or the other, so mark all its rows alike in the column dataset"
        )
