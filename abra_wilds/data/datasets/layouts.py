"""Where the rows and images of a six-channel screen lie: its layout is seen, not configured.

The research release (https://www.rxrx.ai/rxrx1), `abra-wilds simulate --layout rxrx1` and a screen of one's
own have metadata.csv with one row a site; the 2019 competition
(https://www.kaggle.com/competitions/recursion-cellular-image-classification) has four tables with one row a
well. Either table may lie beside either place of the images, TOP/<experiment>/Plate<plate>/, with one grey
file a stain, <well>_s<site>_w<stain>.png.

Letters: n rows, C stains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.data.datasets.controls import N_CLASSES, check_well_types
from abra_wilds.data.datasets.metadata import (
    check_rows,
    check_text,
    integers,
    read_metadata,
    refuse_wrong,
)
from abra_wilds.data.datasets.plates import ROW_FILE, TOPS, WELL_FILE, look, same_everywhere
from abra_wilds.data.datasets.tables import read_table
from abra_wilds.errors import InputError

# The name WILDS would give the folder, and the one in the release's archives.
FOLDERS = ("rxrx1_6ch_v1.0", "rxrx1")
METADATA = "metadata.csv"
TABLES = ("train.csv", "train_controls.csv", "test.csv", "test_controls.csv")
# Of RxRx1, for tables without images and for its own 1,139 classes.
SITES = (1, 2)
STAINS = ("Hoechst", "ConA", "phalloidin", "SYTO 14", "MitoTracker", "WGA")  # what _w1 to _w6 show
N_STAINS = len(STAINS)


@dataclass(frozen=True)
class Layout:
    """A screen on disk.

    Attributes:
        folder: that of the data set.
        table: what its rows were read from, for messages.
        rows: (n rows) the columns of `read_metadata`; well_type if the tables know it.
        stems: (n,) text, the names of each row's files below `folder`, without stain and ending.
        suffixes: what follows a stem, stain by stain.
        notes: a sentence for each kind of file that belongs to no row.
    """

    folder: Path
    table: Path
    rows: pd.DataFrame
    stems: NDArray[np.str_]
    suffixes: tuple[str, ...]
    notes: tuple[str, ...]


def find_layout(root: Path) -> Layout:
    """The screen in one of FOLDERS below a root_dir, or in root_dir itself.

    Raises:
        InputError: if there is none, its tables cannot be used, a plate lacks a stain or site that others
            have, or its images are those of RxRx1-WILDS.
    """
    folder = find_folder(root)
    metadata = (folder / METADATA).is_file()
    table = folder / METADATA if metadata else folder
    rows = read_metadata(table) if metadata else read_wells(folder)
    is_rxrx1 = rows["sirna_id"].max() + 1 == N_CLASSES  # whose sites and stains are known
    wells = image_folders(folder, rows) + "/" + rows["well"]
    if metadata:
        plates = look(folder, _with_sites(wells, rows), ROW_FILE)
    else:
        plates = look(folder, wells, WELL_FILE)
        sites = same_everywhere(plates.sites, folder, "site", "*_s{}_w*.png")
        sites = SITES if not sites or is_rxrx1 else sites
        rows, wells = _each_site(rows, sites), wells.repeat(len(sites)).reset_index(drop=True)
        check_rows(rows, table)
    if plates.wilds is not None and not plates.stains:
        raise InputError(
            f"{plates.wilds} holds images named WELL_sS.png, three channels in one file, as in RxRx1-WILDS, "
            "and rxrx1_6ch reads a file for each stain, WELL_sS_wC.png; use --dataset rxrx1, whose folder is "
            "rxrx1_v1.0"
        )
    n_stains = max(same_everywhere(plates.stains, folder, "stain", "*_w{}.png"), default=0)
    n_stains = N_STAINS if not n_stains or is_rxrx1 else n_stains
    suffixes = tuple(f"_w{number}.png" for number in range(1, n_stains + 1))
    # An array of text, not of objects: worker processes then share its memory for good.
    stems = np.array(_with_sites(wells, rows).tolist())
    return Layout(folder, table, rows, stems, suffixes, tuple(plates.notes(table)))


def find_folder(root: Path) -> Path:
    """The first folder of a root_dir that holds metadata.csv or the competition's train.csv.

    Raises:
        InputError: if there is none.
    """
    named = [root / name for name in FOLDERS]
    for folder in [*named, root]:
        if (folder / METADATA).is_file() or (folder / TABLES[0]).is_file():
            return folder
    make = (
        f"get it with 'abra-wilds fetch rxrx1_6ch {quote(str(root))}', or make a simulated one with "
        f"'abra-wilds simulate {quote(str(root))} --layout rxrx1'"
    )
    raise absent(named, f"{METADATA} and no {TABLES[0]}", make)


def tables_of(folder: Path) -> list[Path]:
    """The tables that the rows of a data set's folder are read from."""
    metadata = folder / METADATA
    return [metadata] if metadata.is_file() else [folder / name for name in TABLES]


def absent(folders: Sequence[Path], tables: str, make: str) -> InputError:
    """The sentence about a data set that is in none of the folders where it may lie.

    Args:
        folders: those.
        tables: what a folder that is there lacks.
        make: how to come by the data set.
    """
    for folder in folders:
        if folder.is_dir():
            return InputError(f"{folder} holds no {tables}; {make}")
    return InputError(f"there is no data set in {' or '.join(map(str, folders))}; {make}")


def read_wells(folder: Path) -> pd.DataFrame:
    """The wells of the competition's four tables, by experiment, plate and well.

    Returns:
        A frame like `read_metadata`'s, without the column site.

    Raises:
        InputError: if a table is missing or wrong, or has no labels, as test.csv when it was published.
    """
    missing = [name for name in TABLES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} holds {TABLES[0]} of the 2019 competition and lacks {', '.join(missing)}; restore it, "
            f"or put the research release's {METADATA} there, which replaces all of them"
        )
    wells = pd.concat([_read_wells(folder / name) for name in TABLES], ignore_index=True)
    return wells.sort_values(["experiment", "plate", "well"], ignore_index=True)


def _read_wells(path: Path) -> pd.DataFrame:
    """The checked rows of one of the competition's tables."""
    split, _, controls = path.stem.partition("_")
    needed = ["experiment", "plate", "well", *(["sirna", "well_type"] if controls else [])]
    table = read_table(path, needed, optional=["sirna"])
    if path.name == "test.csv" and ("sirna" not in table or (table["sirna"] == "").any()):
        raise InputError(
            f"{path} has no labels (column sirna), as it was published for the 2019 competition; put the "
            f"research release's {METADATA} (rxrx.ai/rxrx1), which has all of them, into {path.parent}"
        )
    if "sirna" not in table:
        raise InputError(f"{path} lacks the columns sirna; restore the file")
    for column in ("experiment", "well"):
        check_text(table[column], path)
    table["plate"] = integers(table["plate"], path)
    if controls:
        check_well_types(table["well_type"], path)
    return pd.DataFrame(
        {
            "cell_type": table["experiment"].str.split("-").str[0],
            "dataset": split,
            **{column: table[column] for column in ("experiment", "plate", "well")},
            "well_type": table["well_type"] if controls else "treatment",
            "sirna_id": _class_ids(table["sirna"], path),
        }
    )


def _class_ids(values: pd.Series[Any], path: Path) -> NDArray[np.int64]:
    """Class ids, (n,), of texts such as 513 or sirna_513."""
    numbers = values.str.removeprefix("sirna_")
    wrong = ~numbers.str.fullmatch(r"\d{1,9}", na=False).to_numpy(dtype=bool)
    refuse_wrong(values, path, wrong, "a number or sirna_NUMBER")
    return np.array(numbers.tolist(), dtype=np.int64)


def _each_site(wells: pd.DataFrame, sites: Sequence[int]) -> pd.DataFrame:
    """A row for each site of each well."""
    rows = wells.loc[wells.index.repeat(len(sites))].reset_index(drop=True)
    rows["site"] = np.tile(np.asarray(sites, dtype=np.int64), len(wells))
    return rows


def _with_sites(wells: pd.Series[Any], rows: pd.DataFrame) -> pd.Series[Any]:
    """The names of rows' files without stain and ending, (n,), from those of their wells."""
    return wells + "_s" + rows["site"].astype(str)


def image_folders(folder: Path, rows: pd.DataFrame) -> pd.Series[Any]:
    """The folder of each row's images below that of the data set, (n,): TOP/<experiment>/Plate<plate>.

    TOP is the first of TOPS that has the experiment; where none has, the one that should.
    """
    competition = (folder / TABLES[0]).is_file() or (folder / "train").is_dir()
    apart = competition and not (folder / "images").is_dir()
    tops = {}
    for experiment, mark in rows[["experiment", "dataset"]].drop_duplicates("experiment").to_numpy():
        expected = ("train" if mark == "train" else "test") if apart else "images"
        tops[experiment] = next((top for top in TOPS if (folder / top / experiment).is_dir()), expected)
    return rows["experiment"].map(tops) + "/" + rows["experiment"] + "/Plate" + rows["plate"].astype(str)
