"""metadata.csv of RxRx1-WILDS: one row an image, and every way it can be wrong, each in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.data.datasets.tables import read_table
from abra_wilds.errors import InputError

INTEGERS = ("plate", "site", "sirna_id")
TEXTS = ("cell_type", "experiment", "well", "dataset")
SPLITS = ("train", "val", "test")
_INTEGER = re.compile(r" *[0-9]{1,19} *")
_LARGEST = np.iinfo(np.int64).max
# File systems take 255 bytes, which a well's name shares with its site, stain and ending.
LONGEST_NAME = 100
UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f]")


def read_metadata(path: Path) -> pd.DataFrame:
    """The checked rows of a metadata.csv, in file order.

    Returns:
        A frame by line of the file with the columns WILDS reads: plate and site (from 1), sirna_id (0..O-1),
        and cell_type, experiment, well and dataset ("train", "val" or "test") as text; and well_type as it
        is, if there.

    Raises:
        InputError: for missing columns, values of the wrong kind, labels with gaps, unknown splits or twice
            the same image.
    """
    rows = read_table(path, [*TEXTS, *INTEGERS], optional=["well_type"])
    for column in TEXTS:
        check_text(rows[column], path)
    _check_splits(rows["dataset"], path)
    for column in INTEGERS:
        rows[column] = integers(rows[column], path)
    check_rows(rows, path)
    return rows


def class_texts(path: Path) -> dict[int, str]:
    """The column sirna of a metadata.csv by class id, as it is; nothing where there is no such column."""
    rows = read_table(path, ["sirna_id"], optional=["sirna"])
    if "sirna" not in rows:
        return {}
    rows = rows.drop_duplicates("sirna_id")
    return dict(zip(integers(rows["sirna_id"], path).tolist(), rows["sirna"], strict=True))


def check_rows(rows: pd.DataFrame, path: Path) -> None:
    """Refuse rows of which each is right and that do not fit together.

    Raises:
        InputError: for labels with gaps or twice the same image.
    """
    _check_labels(rows["sirna_id"].to_numpy(), path)
    _check_unique(rows, path)


def check_discarded(rows: pd.DataFrame, path: Path) -> None:
    """Refuse "mixed-to-test" where it cannot be made.

    For each test experiment, WILDS discards one training experiment of its cell line, from 01 on.

    Raises:
        InputError: if a training experiment that WILDS would discard does not exist.
    """
    by_split = {
        split: rows.loc[rows["dataset"] == split, "experiment"].unique() for split in ("train", "test")
    }
    lines = [str(experiment).split("-")[0] for experiment in by_split["test"]]
    wanted = [f"{line}-{k:02}" for line in dict.fromkeys(lines) for k in range(1, lines.count(line) + 1)]
    absent = sorted(set(wanted) - set(by_split["train"]))
    if absent:
        raise InputError(
            f"split_scheme 'mixed-to-test' discards the training experiments {_some(wanted)}, and {path} "
            f"has no {_some(absent)}; use --split_scheme official"
        )


def check_text(values: pd.Series[Any], path: Path) -> None:
    """Refuse a column with anything but text that can be a folder's name.

    Raises:
        InputError: with the first wrong line.
    """
    refuse_wrong(values, path, (values == "").to_numpy(), "text")
    refuse_wrong(values, path, ~values.map(is_name).to_numpy(dtype=bool), "a name that folders can have")


def is_name(text: str) -> bool:
    r"""Whether a text is the name of one file or folder: paths of images are made of the names in tables.

    >>> [is_name(text) for text in ("HEPG2-08", "..", "../x", "/x", "a\\b", "a\0", "x" * 101)]
    [True, False, False, False, False, False, False]
    """
    return text not in ("", ".", "..") and len(text) <= LONGEST_NAME and not UNSAFE.search(text)


def _check_splits(values: pd.Series[Any], path: Path) -> None:
    refuse_wrong(values, path, ~values.isin(SPLITS).to_numpy(), f"one of {', '.join(SPLITS)}")


def integers(values: pd.Series[Any], path: Path) -> NDArray[np.int64]:
    """The numbers of a column of text, (n,): labels count from 0, plates and sites from 1 as in file names.

    Raises:
        InputError: with the first wrong line; 1.0 is no integer either.
    """
    lowest = 0 if values.name == "sirna_id" else 1
    numbers = [int(value) if _INTEGER.fullmatch(value) else -1 for value in values]
    wrong = np.array([not lowest <= number <= _LARGEST for number in numbers])
    refuse_wrong(values, path, wrong, f"an integer of at least {lowest}")
    return np.array(numbers, dtype=np.int64)


def _check_labels(labels: np.ndarray[Any, Any], path: Path) -> None:
    present = np.unique(labels)
    absent = np.setdiff1d(np.arange(present[-1] + 1), present)
    if len(absent):
        raise InputError(
            f"sirna_id in {path} must run from 0 to {present[-1]} without gaps, and no row has "
            f"{_some(absent)}; restore the rows or number the classes again"
        )
    if len(present) == 1:
        raise InputError(f"every row of {path} has sirna_id {present[0]}; at least two classes are needed")


def _check_unique(rows: pd.DataFrame, path: Path) -> None:
    again = rows.duplicated(["experiment", "plate", "well", "site"]).to_numpy()
    if again.any():
        row = rows.iloc[int(again.argmax())]
        name = f"{row['experiment']}, plate {row['plate']}, well {row['well']}, site {row['site']}"
        raise InputError(f"{path} lists the image of {name} more than once; keep one row an image")


def refuse_wrong(values: pd.Series[Any], path: Path, wrong: np.ndarray[Any, Any], allowed: str) -> None:
    """Refuse a table's column with any wrong value.

    Args:
        values: of the column, by line of the table.
        path: of the table.
        wrong: (n,) which of them are.
        allowed: what they must be, for the sentence.

    Raises:
        InputError: with the first wrong line and how many there are.
    """
    if not wrong.any():
        return
    k = int(wrong.argmax())
    got = repr(values.iloc[k]) if values.iloc[k] else "nothing"
    raise InputError(
        f"column {values.name} of {path} must be {allowed}; line {values.index[k]} has {got}, and "
        f"{int(wrong.sum()):,} of {len(values):,} rows are wrong; correct them"
    )


def _some(values: Iterable[Any], most: int = 10) -> str:
    named = [str(value) for value in values]
    return ", ".join(named[:most]) + (f" and {len(named) - most:,} more" if len(named) > most else "")
