"""CellProfiler's LoadData table: one row a site, a FileName_ and PathName_ column for each channel.

`FileName_OrigDNA` and `PathName_OrigDNA` name the file and folder of channel DNA, `FileName_IllumDNA` and
`PathName_IllumDNA` the function that its illumination is divided by, `Frame_OrigDNA` a plane of a stack.

Letters: n rows, C channels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.data.screens.sites import Sites
from abra_wilds.data.screens.tables import read_text
from abra_wilds.errors import InputError

FILE = re.compile(r"FileName_(Orig|Illum)?(.+)")
PLACES = ("FileName_", "PathName_", "URL_", "Frame_", "Series_")
_ABSOLUTE = re.compile(r"/|[A-Za-z]:[/\\]|\\\\")


def read_load_data(path: Path, roots: Sequence[tuple[str, str]] = ()) -> Sites:
    """The sites of a LoadData table, csv or parquet.

    Args:
        path: of the table.
        roots: OLD and NEW: paths that begin with OLD are read below NEW. Other paths are as they stand, or
            relative to the table.

    Raises:
        InputError: if it is no such table, or names two columns of files for a channel.
    """
    rows = read_text(path)
    named: dict[str, dict[str, str]] = {"Orig": {}, "Illum": {}}
    for column in rows:
        found = FILE.fullmatch(column)
        if found is None:
            continue
        own = named[found[1] or "Orig"]
        if found[2] in own:
            raise InputError(
                f"{path} has two files for channel {found[2]}, in the columns {own[found[2]]} and {column}; "
                "remove one"
            )
        own[found[2]] = column
    images = named["Orig"]
    if not images:
        raise _no_images(path, rows)
    references = np.stack([_references(rows, column, path, roots) for column in images.values()], axis=1)
    light = [
        _references(rows, named["Illum"][name], path, roots) if name in named["Illum"] else _nothing(rows)
        for name in images
    ]
    metadata = rows[[column for column in rows if not column.startswith(PLACES)]]
    illumination = np.stack(light, axis=1) if named["Illum"] else None
    return Sites(path, metadata, tuple(images), references, illumination)


def _references(
    rows: pd.DataFrame, column: str, path: Path, roots: Sequence[tuple[str, str]]
) -> NDArray[np.str_]:
    """The reference of each row's file, (n,), "" where none is named."""
    channel = column.removeprefix("FileName_")
    names = rows[column].tolist()
    folders = rows[f"PathName_{channel}"].tolist() if f"PathName_{channel}" in rows else [""] * len(rows)
    frames = rows[f"Frame_{channel}"].tolist() if f"Frame_{channel}" in rows else [""] * len(rows)
    below = {folder: _placed(folder, path.parent, roots) for folder in dict.fromkeys(folders)}
    return np.array(
        [
            (f"{below[folder]}/{name}" + (f"#plane={frame}" if frame else "")) if name else ""
            for name, folder, frame in zip(names, folders, frames, strict=True)
        ]
    )


def _placed(folder: str, base: Path, roots: Sequence[tuple[str, str]]) -> str:
    """Where a folder of the table is on this machine, with / between names."""
    slashed = folder.replace("\\", "/")
    for old, new in roots:
        start = old.replace("\\", "/").rstrip("/")
        if slashed == start or slashed.startswith(f"{start}/"):
            return Path(os.path.abspath(new + slashed.removeprefix(start))).as_posix()
    if _ABSOLUTE.match(folder):
        return slashed.rstrip("/")
    return Path(os.path.abspath(base / slashed)).as_posix()


def _nothing(rows: pd.DataFrame) -> NDArray[np.str_]:
    return np.full(len(rows), "", dtype=str)


def _no_images(path: Path, rows: pd.DataFrame) -> InputError:
    """The sentence about a table without columns of files."""
    urls = [column for column in rows if column.startswith("URL_")]
    if urls:
        return InputError(
            f"{path} names images by {urls[0]} alone, and addresses are not read; download the images and "
            "name them by FileName_ and PathName_"
        )
    return InputError(
        f"{path} names no images: a table of a screen has columns such as FileName_OrigDNA and "
        f"PathName_OrigDNA, and this one has {', '.join(map(str, rows.columns))}"
    )
