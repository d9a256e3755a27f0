"""What wells hold, from a second table: joined to the sites of a screen by plate and well.

Letters: n sites.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from abra_wilds.data.screens.sites import Sites, well_key
from abra_wilds.data.screens.tables import is_table, read_text
from abra_wilds.errors import InputError

# Names of columns in lower case and without Metadata_.
PLATES = ("plate", "assay_plate_barcode", "plate_barcode", "barcode")
WELLS = ("well", "well_position", "well_id")
MAPS = ("plate_map_name", "platemap", "plate_map")


@dataclass(frozen=True)
class WellTable:
    """A table of wells.

    Attributes:
        path: of the table, for messages.
        rows: its other columns, whose names begin with Metadata_; the index says where each row stands.
        keys: the plate and `well_key` of each row; the plate is None where it stands for all plates.
        explicit: whether each row names its plate, so that one without images is a slip.
    """

    path: Path
    rows: pd.DataFrame
    keys: list[tuple[str | None, str]]
    explicit: bool


def join_platemap(
    sites: Sites, path: Path, plate_column: str, well_column: str, *, partial: bool
) -> tuple[Sites, list[str]]:
    """The sites with the columns of a platemap.

    Args:
        sites: of a screen.
        path: of a table with the columns plate and well, or well alone, or of a `barcode_platemap.csv` that
            names the map of each plate, whose file lies beside it or in its folder `platemap`.
        plate_column: of the sites.
        well_column: of the sites.
        partial: whether sites without a row of the map, and rows without a site, are allowed.

    Returns:
        The sites, and a sentence for each kind of what was left unmatched.

    Raises:
        InputError: for a map that is none, a well that it has twice, or what does not match.
    """
    plates, wells = sites.rows[plate_column].tolist(), [well_key(w) for w in sites.rows[well_column]]
    table = _read_map(path, dict.fromkeys(plates))
    place = _places(table)
    everywhere = {key[0] for key in table.keys} == {None}
    keys = [(None if everywhere else plate, well) for plate, well in zip(plates, wells, strict=True)]
    at = np.array([place.get(key, -1) for key in keys])
    notes = [*_without_row(sites, at, keys, path), *_without_site(table, set(keys), set(plates))]
    if notes and not partial:
        raise InputError(f"{notes[0]}; correct either table, or give --allow_unmatched")
    return replace(sites, rows=_joined(sites, table, at)), notes


def _joined(sites: Sites, table: WellTable, at: np.ndarray) -> pd.DataFrame:
    """The rows of the sites with the map's columns, "" where there is no row of it."""
    rows = sites.rows.copy()
    for column in table.rows:
        values = np.array([*table.rows[column].tolist(), ""], dtype=object)[at]  # -1 takes the last
        if column in rows:
            differ = np.flatnonzero((rows[column].to_numpy() != values) & (at >= 0))
            if len(differ):
                k = int(differ[0])
                raise InputError(
                    f"column {column} is {rows[column].iloc[k]!r} in {sites.where(k)} and {values[k]!r} in "
                    f"{table.path}; rename or remove one of the two columns"
                )
            continue
        rows[column] = values
    return rows


def _without_row(
    sites: Sites, at: np.ndarray, keys: Sequence[tuple[str | None, str]], path: Path
) -> list[str]:
    alone = np.flatnonzero(at < 0)
    if not len(alone):
        return []
    k = int(alone[0])
    return [
        f"{len(alone):,} of {len(sites):,} sites have no row in {path}, first well {_named(keys[k])}, "
        f"{sites.where(k)}"
    ]


def _without_site(table: WellTable, present: set[tuple[str | None, str]], plates: set[str]) -> list[str]:
    """Rows of the map without a site; of other plates only where the map names each well's plate."""
    alone = [
        k
        for k, key in enumerate(table.keys)
        if key not in present and (table.explicit or key[0] is None or key[0] in plates)
    ]
    if not alone:
        return []
    k = alone[0]
    return [
        f"{len(alone):,} of {len(table.keys):,} wells of {table.path} have no image, first well "
        f"{_named(table.keys[k])} in {table.rows.index.name} {table.rows.index[k]}"
    ]


def _named(key: tuple[str | None, str]) -> str:
    return key[1] if key[0] is None else f"{key[1]} of plate {key[0]}"


def _places(table: WellTable) -> dict[tuple[str | None, str], int]:
    """The row of each key.

    Raises:
        InputError: for a key that occurs twice.
    """
    found: dict[tuple[str | None, str], int] = {}
    for k, key in enumerate(table.keys):
        if key in found:
            first, again = table.rows.index[found[key]], table.rows.index[k]
            raise InputError(
                f"{table.path} has well {_named(key)} twice, in {table.rows.index.name} {first} and {again}; "
                "keep one row a well"
            )
        found[key] = k
    return found


def _read_map(path: Path, plates: Iterable[str]) -> WellTable:
    """A platemap of any kind."""
    if not path.is_file():
        raise InputError(f"--platemap {path} is no file; give a table with the columns plate and well")
    rows = read_text(path)
    plate, well, name = (_column(rows, known) for known in (PLATES, WELLS, MAPS))
    if well is not None:
        keys = [
            (None if plate is None else rows[plate].iloc[k], well_key(text))
            for k, text in enumerate(rows[well])
        ]
        return WellTable(path, _renamed(rows, (plate, well)), keys, plate is not None)
    if plate is None or name is None:
        raise InputError(
            f"{path} is no platemap: it has the columns {', '.join(map(str, rows))}, and needs well (and "
            "plate), or Assay_Plate_Barcode and Plate_Map_Name"
        )
    return _read_maps(path, rows, plate, name, plates)


def _read_maps(path: Path, rows: pd.DataFrame, plate: str, name: str, plates: Iterable[str]) -> WellTable:
    """The maps that a barcode_platemap names for some plates."""
    names = dict(zip(rows[plate], rows[name], strict=True))
    if len(names) < len(rows):
        twice = rows[plate][rows[plate].duplicated()].iloc[0]
        raise InputError(f"{path} names plate {twice} twice; keep one map a plate")
    frames: list[pd.DataFrame] = []
    keys: list[tuple[str | None, str]] = []
    maps: dict[str, WellTable] = {}
    for own in plates:
        if own not in names:
            continue  # whose sites then have no row
        found = names[own]
        if found not in maps:
            maps[found] = _read_map(_map_file(path, found), ())
        frames.append(maps[found].rows.assign(**{f"Metadata_{name.removeprefix('Metadata_')}": found}))
        keys += [(own, well) for _, well in maps[found].keys]
    if not frames:
        raise InputError(f"{path} names none of the plates of the screen, first {next(iter(plates))}")
    joined = pd.concat(frames).fillna("")
    joined.index.name = "line"
    return WellTable(path, joined, keys, explicit=False)


def _map_file(path: Path, name: str) -> Path:
    """The file of a map beside its barcode_platemap or in its folder platemap."""
    for folder in (path.parent / "platemap", path.parent / "platemaps", path.parent):
        for found in [folder / name, *(folder / f"{name}{end}" for end in (".txt", ".csv", ".tsv"))]:
            if found.is_file() and is_table(found):
                return found
    raise InputError(
        f"{path} names the map {name}, and there is no {name}.txt or {name}.csv in {path.parent} or its "
        "folder platemap; restore it"
    )


def _column(rows: pd.DataFrame, known: Sequence[str]) -> str | None:
    """The column of a table with one of these names."""
    plain = {str(column).removeprefix("Metadata_").lower(): str(column) for column in rows}
    return next((plain[name] for name in known if name in plain), None)


def _renamed(rows: pd.DataFrame, without: Sequence[str | None]) -> pd.DataFrame:
    """A map's other columns under names that begin with Metadata_."""
    kept = [column for column in rows if column not in without]
    return rows[kept].rename(columns={c: f"Metadata_{str(c).removeprefix('Metadata_')}" for c in kept})
