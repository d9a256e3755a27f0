"""The sites of OME-Zarr plates (NGFF 0.4 and 0.5): wells and fields as the attributes list them.

Each channel is a plane of the field's full resolution, `PLATE.zarr/ROW/COLUMN/FIELD#c=K`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from abra_wilds.data.reading.planes import ome_attributes, open_field, unreadable_file
from abra_wilds.data.screens.sites import Sites
from abra_wilds.errors import InputError

# What a folder of an OME-Zarr has in NGFF 0.4, or in 0.5.
MARKS = (".zattrs", "zarr.json")
COLUMNS = ("Metadata_Plate", "Metadata_Well", "Metadata_Site")


def find_plates(folder: Path) -> list[Path]:
    """The OME-Zarr plates at a folder: itself, or those in it by name.

    Raises:
        InputError: if there is one and the package zarr is not installed.
    """
    return [path for path in (folder, *sorted(folder.glob("*.zarr"))) if _is_plate(path)]


def read_plates(folder: Path, plane: str | None = None) -> Sites:
    """The sites of a plate, or of all plates in a folder, with the COLUMNS.

    Plates are called as their folders, wells A01, and sites as the fields' folders.

    Args:
        folder: PLATE.zarr, or a folder of such.
        plane: which plane of a stack is read, counted from 0, or "max"; None where images have one.

    Raises:
        InputError: if there is no plate, its attributes cannot be used, or plates have other channels.
    """
    rows, references = [], []
    channels: dict[Path, tuple[str, ...]] = {}
    ending = "" if plane is None else f"&z={plane}"
    for plate in find_plates(Path(os.path.abspath(folder))):
        name = plate.name.removesuffix(".zarr").removesuffix(".ome")
        for well, site, field in _fields(plate):
            if plate not in channels:
                channels[plate] = _channels(field)
            own = [f"{field.as_posix()}#c={k}{ending}" for k in range(len(channels[plate]))]
            rows.append((name, well, site))
            references.append(own)
    if not rows:
        raise InputError(f"{folder} holds no plate of an OME-Zarr with images; give PLATE.zarr or its folder")
    first = next(iter(channels))
    for plate, names in channels.items():
        if names != channels[first]:
            raise InputError(
                f"{plate} has the channels {', '.join(names)} and {first} has {', '.join(channels[first])}; "
                "give plates of other channels by themselves"
            )
    table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    table.index.name = "site"
    return Sites(folder, table, channels[first], np.array(references))


def _is_plate(path: Path) -> bool:
    return any((path / mark).is_file() for mark in MARKS) and "plate" in _attributes(path)


def _fields(plate: Path) -> Iterator[tuple[str, str, Path]]:
    """Well, site and folder of each image of a plate, in the order of its lists."""
    for well in _listed(plate, "plate", "wells"):
        row, _, column = well.partition("/")
        for image in _listed(plate / well, "well", "images"):
            yield f"{row}{column.zfill(2)}", image, plate / well / image


def _listed(folder: Path, what: str, members: str) -> list[str]:
    """The paths of the members that a plate or well lists."""
    try:
        return [str(member["path"]) for member in _attributes(folder)[what][members]]
    except (LookupError, TypeError) as fault:
        raise InputError(
            f"{folder} does not list its {members}, as a {what} of NGFF does; restore it"
        ) from fault


def _channels(field: Path) -> tuple[str, ...]:
    """The channels of an image by their labels, or by number from 1 where one has none or two have one."""
    attributes = _attributes(field)
    try:
        array, axes = open_field(str(field))
        n = array.shape[axes.index("c")] if "c" in axes else 1
        shown: list[dict[str, Any]] = attributes.get("omero", {}).get("channels", [])
        labels = tuple(str(channel.get("label", "")) for channel in shown)
    except (LookupError, TypeError, AttributeError, OSError, ValueError) as fault:
        raise unreadable_file(field, fault) from fault
    whole = len(labels) == n == len(set(labels)) and all(labels)
    return labels if whole else tuple(str(k + 1) for k in range(n))


def _attributes(folder: Path) -> dict[str, Any]:
    try:
        return ome_attributes(folder)
    except InputError:
        raise
    # Damaged metadata is answered with many kinds of exception.
    except Exception as fault:
        raise unreadable_file(folder, fault) from fault
