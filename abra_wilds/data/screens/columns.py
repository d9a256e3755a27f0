"""What the columns of a screen mean: plate, well, site, bio-batch, cell line, class and kind of well.

Letters: n sites.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from abra_wilds.config.screen import ScreenConfig
from abra_wilds.data.datasets.controls import WELL_TYPES
from abra_wilds.data.screens.sites import Sites, well_key
from abra_wilds.errors import InputError

# Field of ScreenConfig -> the columns that mean it where nothing is said, the first that is there.
KNOWN: dict[str, tuple[str, ...]] = {
    "plate_column": ("Metadata_Plate", "Metadata_Assay_Plate_Barcode"),
    "well_column": ("Metadata_Well",),
    "site_column": ("Metadata_Site",),
    "cell_line_column": ("Metadata_Cell_Line",),
    "label_column": ("Metadata_Label",),
    "split_column": ("Metadata_Split",),
    "control_column": ("Metadata_control_type", "Metadata_pert_type"),
}
BIO_BATCH = "Metadata_Batch"
NEEDED = ("plate_column", "well_column")
JOINT = "__"  # between the values of several columns
NEGATIVE, POSITIVE = ("negcon", "negative_control"), ("poscon", "positive_control")


@dataclass(frozen=True)
class Names:
    """The columns of a screen by their meaning, (n,) text each.

    Attributes:
        bio_batch, plate, well, site, cell_line: as they stand.
        label: the class, "" where it is not known; None without such a column.
        kind: which of WELL_TYPES each well is; None where nothing says it.
    """

    bio_batch: NDArray[np.object_]
    plate: NDArray[np.object_]
    well: NDArray[np.object_]
    site: NDArray[np.object_]
    cell_line: NDArray[np.object_]
    label: NDArray[np.object_] | None
    kind: NDArray[np.str_] | None


def with_columns(
    config: ScreenConfig, columns: Sequence[str], source: object, optional: Collection[str] = ()
) -> ScreenConfig:
    """The settings with a column for everything that the table names.

    Args:
        config: with the columns that are given.
        columns: of the table.
        source: of it, for messages.
        optional: settings that count as not given where the table has no such column.

    Raises:
        InputError: for another column that is not there, or none for plates or wells.
    """
    found: dict[str, str | None] = {}
    for field, known in KNOWN.items():
        given = getattr(config, field)
        if given is not None and (given in columns or field not in optional):
            _check(columns, given, field, source)
        elif not (field == "split_column" and config.split):
            found[field] = next((name for name in known if name in columns), None)
    missing = [field for field in NEEDED if found.get(field, "") is None]
    if missing:
        raise InputError(
            f"{source} has no column {KNOWN[missing[0]][0]}; name the one that means it by --{missing[0]}, "
            f"of {', '.join(columns)}"
        )
    config = replace(config, **found)  # type: ignore[arg-type]
    for name in (*config.bio_batch_columns, *(config.division.by if config.division else ())):
        _check(columns, name, "bio_batch_columns", source)
    if config.keep_together is not None:
        _check(columns, config.keep_together, "keep_together", source)
    own = BIO_BATCH if BIO_BATCH in columns else str(config.plate_column)
    return config if config.bio_batch_columns else replace(config, bio_batch_columns=(own,))


def _check(columns: Sequence[str], name: str, flag: str, source: object) -> None:
    if name not in columns:
        raise InputError(f"--{flag} got {name}, and {source} has the columns {', '.join(columns)}")


def names_of(sites: Sites, config: ScreenConfig) -> Names:
    """The columns of sites by their meaning.

    Args:
        sites: of a screen.
        config: from `with_columns`.

    Raises:
        InputError: for an empty plate, well or bio-batch, or a site that occurs twice.
    """
    rows = sites.rows
    plate, well = (_filled(sites, str(column)) for column in (config.plate_column, config.well_column))
    one = np.full(len(rows), "1", dtype=object)
    site = one if config.site_column is None else rows[config.site_column].to_numpy(dtype=object)
    line = np.full(len(rows), "all", dtype=object)
    if config.cell_line_column is not None:
        line = _filled(sites, config.cell_line_column)
    names = Names(
        joint(sites, config.bio_batch_columns),
        plate,
        well,
        site,
        line,
        None if config.label_column is None else rows[config.label_column].to_numpy(dtype=object),
        _kinds(sites, config),
    )
    _refuse_twice(sites, names)
    return names


def joint(sites: Sites, columns: Sequence[str]) -> NDArray[np.object_]:
    """The values of some columns, joined where there are several, (n,).

    Raises:
        InputError: for an empty one, or different ones that read alike once joined.
    """
    found = [_filled(sites, column) for column in columns]
    if len(found) == 1:
        return found[0]
    texts = np.array([JOINT.join(values) for values in zip(*found, strict=True)], dtype=object)
    if len(set(texts)) < len(set(zip(*found, strict=True))):
        raise InputError(
            f"the columns {', '.join(columns)} of {sites.source} have values that look the same once "
            f"{JOINT} is between them; values must not hold {JOINT}"
        )
    return texts


def _filled(sites: Sites, column: str) -> NDArray[np.object_]:
    """A column without empty values."""
    values: NDArray[np.object_] = sites.rows[column].to_numpy(dtype=object)
    empty = np.flatnonzero(values == "")
    if len(empty):
        raise InputError(
            f"column {column} is empty in {sites.where(int(empty[0]))}, and in all {len(empty):,} of "
            f"{len(values):,} rows; fill it"
        )
    return values


def _kinds(sites: Sites, config: ScreenConfig) -> NDArray[np.str_] | None:
    """Which of WELL_TYPES each row is."""
    if config.control_column is None:
        return None
    values = sites.rows[config.control_column]
    given = config.control_values
    absent = [value for value in given if value not in set(values)]
    if absent:
        raise InputError(
            f"--controls names {absent[0]!r}, which column {config.control_column} of {sites.source} never "
            f"holds; it has {', '.join(map(repr, sorted(set(values))[:10]))}"
        )
    kinds = {value: f"{given[value]}_control" if given else _known_kind(value) for value in given or values}
    return np.array([kinds.get(value, WELL_TYPES[0]) for value in values])


def _known_kind(value: str) -> str:
    """The kind of a well by the words that screens have for it: poscon_cp is positive as well."""
    if value in NEGATIVE:
        return WELL_TYPES[2]
    return WELL_TYPES[1] if value.startswith(POSITIVE) else WELL_TYPES[0]


def _refuse_twice(sites: Sites, names: Names) -> None:
    """Refuse one site of a well twice, as where two plates of a bio-batch have one name."""
    seen: dict[tuple[str, ...], int] = {}
    wells: Mapping[str, str] = {well: well_key(well) for well in set(names.well)}
    for k, (batch, plate, well, site) in enumerate(
        zip(names.bio_batch, names.plate, names.well, names.site, strict=True)
    ):
        first = seen.setdefault((batch, plate, wells[well], site), k)
        if first != k:
            raise InputError(
                f"site {site} of well {well} of plate {plate} occurs twice, in {sites.where(first)} and "
                f"{sites.place(k)}; a plate name that two plates have "
                "must differ, or tell them apart by --bio_batch_columns or --site_column"
            )
