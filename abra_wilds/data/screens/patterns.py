"""Folders of images whose names say plate, well, site and channel: a pattern with named groups makes sites.

Letters: n sites, C channels.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from abra_wilds.data.screens.harmony import read_index
from abra_wilds.data.screens.sites import Sites
from abra_wilds.errors import InputError

PHENIX = "Opera Phenix"
# Opera Phenix and Operetta, then ImageXpress, whose thumbnails do not match.
PATTERNS = {
    PHENIX: r"r(?P<row>\d+)c(?P<col>\d+)f(?P<site>\d+)p(?P<plane>\d+)-ch(?P<channel>\d+)"
    r"sk(?P<time>\d+)fk\d+fl\d+\.(?:tiff?|png)",
    "ImageXpress": r".+_(?P<well>[A-P]\d{2})(?:_s(?P<site>\d+))?_w(?P<channel>\d+)[0-9A-Fa-f-]*\.(?:tif|TIF)",
}
# Folders between those of plates and the images.
BETWEEN = re.compile(r"images|timepoint_\d+", re.IGNORECASE)
Match = tuple[str, Mapping[str, str | None]]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
COLUMNS = {"plate": "Plate", "well": "Well", "site": "Site", "time": "Time", "batch": "Batch"}


def read_folder(folder: Path, pattern: str | None = None, plane: str | None = None) -> Sites:
    """The sites of a folder of images, sorted by their columns.

    A group of the pattern becomes a column, `site` Metadata_Site; row and col make Metadata_Well. Without
    a group plate, the folder of an image is its plate. Beside images of an Opera Phenix or Operetta, an index
    of Harmony names the plate and its channels, which then go by their number too.

    Args:
        folder: of the images, which may lie in folders below it.
        pattern: of a file's name, or of its path below the folder where it holds a /; None for PATTERNS.
        plane: which is read, by its number in the group plane, or else in stacks; "max" is of stacks alone.

    Raises:
        InputError: for no such files, or two files of one channel of a site.
    """
    patterns = _compiled(pattern)
    files = sorted(_files(folder), key=_natural)
    matches = {name: list(_matching(files, own)) for name, own in patterns.items()}
    name = max(matches, key=lambda key: len(matches[key]))
    if not matches[name]:
        raise InputError(
            f"{folder} holds no table and none of its {len(files):,} files has a name that "
            f"{' or '.join(patterns)} gives; give the table, or --pattern with the groups plate, well, site "
            "and channel"
        )
    places = dict.fromkeys(file.rpartition("/")[0] for file, _ in matches[name]) if name == PHENIX else ()
    named, numbers, known = by_index(folder, places, matches[name])
    columns, found = _gathered(folder, named, plane)
    there = {channel: numbers.get(channel, channel) for own in found.values() for channel in own}
    channels = sorted(there, key=lambda channel: _natural(there[channel]))
    keys = sorted(found, key=lambda key: [_natural(text) for text in key])
    rows = pd.DataFrame(keys, columns=columns, dtype=object)
    rows.index.name = "site"
    top = Path(os.path.abspath(folder)).as_posix()
    files_of = [[found[key].get(channel) for channel in channels] for key in keys]
    references = np.array([[f"{top}/{file}" if file else "" for file in own] for own in files_of])
    sites = Sites(folder, rows, tuple(channels), references, other_names=known)
    return sites if "plane" in patterns[name].groupindex else sites.of_plane(plane)


def by_index(
    folder: Path, places: Iterable[str], matches: Sequence[Match]
) -> tuple[list[Match], dict[str, str], dict[str, str]]:
    """The files with the names of channels and plates that indexes of Harmony beside them say.

    Args:
        folder: of the images.
        places: folders below it that may have an index.
        matches: of the pattern.

    Returns:
        The files; name of a channel -> its number on the first plate; number -> name where all plates agree.

    Raises:
        InputError: for an index that cannot be read, or where plates have other channels.
    """
    indexes = {place: found for place in places if (found := read_index(folder / place)) is not None}
    if not indexes:
        return list(matches), {}, {}
    first, *others = indexes.values()
    for other in others:
        if set(other.channels.values()) != set(first.channels.values()):
            raise InputError(
                f"{first.path} names the channels {', '.join(first.channels.values())} and {other.path} "
                f"{', '.join(other.channels.values())}; where they are the same, correct one of the files, "
                "or name images by --pattern, which leaves both files unread"
            )
    times = Counter(found.plate for found in indexes.values())
    named: list[Match] = []
    for file, groups in matches:
        more, index = dict(groups), indexes.get(file.rpartition("/")[0])
        if index is not None:
            if times[index.plate] == 1:  # a plate that was measured twice goes by its folders
                more["plate"] = index.plate
            more["channel"] = index.name_of(_plain(str(groups["channel"])))
        named.append((file, more))
    agreed = all(other.channels == first.channels for other in others)
    numbers = {name: number for number, name in first.channels.items()}
    return named, numbers, dict(first.channels) if agreed else {}


def _compiled(pattern: str | None) -> dict[str, re.Pattern[str]]:
    """Patterns by name.

    Raises:
        InputError: for one that is no regular expression, or lacks the groups that make sites.
    """
    try:
        found = {"--pattern": pattern} if pattern else PATTERNS
        compiled = {name: re.compile(text) for name, text in found.items()}
    except re.error as fault:
        raise InputError(f"--pattern {pattern} is no regular expression ({fault}); correct it") from None
    for own in compiled.values():
        groups = set(own.groupindex)
        if "channel" not in groups or not ("well" in groups or {"row", "col"} <= groups):
            raise InputError(
                f"--pattern {pattern} has the groups {', '.join(own.groupindex) or 'none'}; it needs "
                "(?P<channel>...), and (?P<well>...) or (?P<row>...) and (?P<col>...)"
            )
    return compiled


def _files(folder: Path) -> Iterator[str]:
    """Every file below a folder, by its path below it with / between names."""
    for place, _, names in os.walk(folder):
        below = Path(place).relative_to(folder)
        yield from ((below / name).as_posix() for name in names)


def _matching(
    files: Sequence[str], pattern: re.Pattern[str]
) -> Iterator[tuple[str, Mapping[str, str | None]]]:
    """The files of a pattern, with its groups."""
    by_path = "/" in pattern.pattern
    for file in files:
        found = pattern.fullmatch(file if by_path else file.rpartition("/")[2])
        if found is not None:
            yield file, found.groupdict()


def _gathered(
    folder: Path, matches: Sequence[Match], plane: str | None
) -> tuple[list[str], dict[tuple[str, ...], dict[str, str]]]:
    """The names of columns, and the file of each channel by the site's values of them."""
    columns: list[str] = []
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for file, groups in matches:
        if plane is not None and groups.get("plane") and _plain(plane) != _plain(str(groups["plane"])):
            continue
        values = _values(folder, file, groups)
        columns = columns or [f"Metadata_{COLUMNS.get(name, name)}" for name in values]
        own, channel = found.setdefault(tuple(values.values()), {}), str(groups["channel"])
        if channel in own:
            raise InputError(
                f"{folder} has two files for channel {channel} of one site, {own[channel]} and {file}; "
                "remove one, choose a plane by --plane, or tell them apart by a group of --pattern"
            )
        own[channel] = file
    if not found:
        raise InputError(f"--plane {plane} is none of the planes of the images in {folder}; choose another")
    return columns, found


def _values(folder: Path, file: str, groups: Mapping[str, str | None]) -> dict[str, str]:
    """What the name of a file says of its site; rows and columns make a well, and a folder a plate."""
    named = {name: text or "" for name, text in groups.items() if name not in ("channel", "plane")}
    if "well" not in named:
        row, column = named.pop("row"), named.pop("col")
        named["well"] = f"{_row_letters(row)}{column.lstrip('0').zfill(2)}"
    plate = named.pop("plate", None) or _plate_of(folder, file)
    return {"plate": plate, "well": named.pop("well"), "site": named.pop("site", None) or "1", **named}


def _plain(number: str) -> str:
    """A number without its leading zeros."""
    return number.lstrip("0") or "0"


def _plate_of(folder: Path, file: str) -> str:
    """The nearest folder of a file that has a plate's name; at the top that of the screen."""
    above = [part for part in PurePosixPath(file).parts[:-1] if not BETWEEN.fullmatch(part)]
    return above[-1] if above else Path(os.path.abspath(folder)).name


def _row_letters(row: str) -> str:
    """A row of a plate by letters: 2 is B and 27 is AA.

    >>> [_row_letters(row) for row in ("02", "27", "C")]
    ['B', 'AA', 'C']
    """
    if not row.isdecimal() or not 0 < int(row) <= 26 * 27:
        return row
    number = int(row) - 1
    return (LETTERS[number // 26 - 1] if number >= 26 else "") + LETTERS[number % 26]


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sorts 2 before 10."""
    parts = re.split(r"(\d+)", text)
    return [(1, 0, part) if not part.isdecimal() else (0, int(part), part) for part in parts]
