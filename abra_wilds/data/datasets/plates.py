"""What the folders of a data set's plates hold, each listed once and no file opened.

Letters: n rows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from abra_wilds.errors import InputError

# The key by which a file belongs to rows, its site and its stain: of a row, of a well whose sites are not
# known, and of a row of RxRx1-WILDS, whose files have all channels.
ROW_FILE = re.compile(r"(.+_s(\d+))_w([1-9]\d*)\.png")
WELL_FILE = re.compile(r"(.+)_s(\d+)_w([1-9]\d*)\.png")
WILDS_FILE = re.compile(r"(.+_s(\d+)\.png)()")
TOPS = ("images", "train", "test")
# What file managers leave says nothing of a screen.
_LEFT_BY_VISITS = ("Thumbs.db", "desktop.ini")


@dataclass
class Plates:
    """The files of a data set's plates.

    Attributes:
        folder: of the data set.
        sites, stains: folder of a plate below it -> the numbers that files of its rows have; {} where none
            has any.
        left: files of these folders that belong to no row, below `folder`.
        without_rows: folders of plates that no row is of.
        wilds: the first plate whose images are those of RxRx1-WILDS instead, or None.
    """

    folder: Path
    sites: dict[str, set[int]] = field(default_factory=dict)
    stains: dict[str, set[int]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    without_rows: list[str] = field(default_factory=list)
    wilds: Path | None = None

    def notes(self, table: Path) -> list[str]:
        """What lies there and is not read, a sentence each.

        Args:
            table: what the rows were read from.
        """
        images = sorted(path for path in self.left if path.endswith(".png"))
        others = sorted(set(self.left) - set(images))
        named = (
            ("image files", images),
            ("other files in folders of plates", others),
            ("folders of plates", sorted(self.without_rows)),
        )
        return [
            f"{what} that belong to no row of {table} and are not read: {len(found):,}, first "
            f"{self.folder / found[0]}"
            for what, found in named
            if found
        ]


def look(folder: Path, keys: Iterable[str], pattern: re.Pattern[str]) -> Plates:
    """List the folders of plates.

    Args:
        folder: of the data set.
        keys: (n) the folder of a row's plate below it, and what `pattern` finds in the names of its files.
        pattern: of files, with the groups key, site and stain.
    """
    own: dict[str, set[str]] = {}
    for key in keys:
        place, _, name = key.rpartition("/")
        own.setdefault(place, set()).add(name)
    found = Plates(folder, without_rows=_others(folder, own))
    for place, names in own.items():
        _look_into(found, place, names, pattern)
    return found


def same_everywhere(found: Mapping[str, set[int]], folder: Path, kind: str, named: str) -> tuple[int, ...]:
    """The numbers that all plates with images have, in order.

    Args:
        found: folder of a plate -> the numbers it has.
        folder: of the data set.
        kind: what the numbers are of.
        named: how a number stands in the names of files.

    Raises:
        InputError: with a plate that lacks one that another has.
    """
    numbers: set[int] = set().union(*found.values())
    for number in sorted(numbers):
        having = [place for place, own in found.items() if number in own]
        lacking = [place for place in found if place not in having]
        if lacking:
            raise InputError(
                f"{folder / lacking[0]} has no image of {kind} {number} ({named.format(number)}), which "
                f"{len(having)} of {len(found)} plates have, first {having[0]}; every plate must have the "
                f"same {kind}s, so restore it there, or take it from all"
            )
    return tuple(sorted(numbers))


def _look_into(found: Plates, place: str, names: set[str], pattern: re.Pattern[str]) -> None:
    path = found.folder / place
    files = os.listdir(path) if path.is_dir() else []
    sites, stains, left = set(), set(), []
    for name in files:
        match = pattern.fullmatch(name)
        if match is not None and match[1] in names:
            sites.add(match[2])
            stains.add(match[3])
        elif not (name.startswith(".") or name in _LEFT_BY_VISITS):
            left.append(name)
    if sites:
        found.sites[place], found.stains[place] = set(map(int, sites)), {int(s) for s in stains if s}
    elif found.wilds is None and any(map(WILDS_FILE.fullmatch, left)):
        found.wilds = path
    found.left += [f"{place}/{name}" for name in left]


def _others(folder: Path, own: Mapping[str, object]) -> list[str]:
    """Folders of plates, below that of the data set, that are not among some."""
    paths = [path for top in TOPS for path in folder.glob(f"{top}/*/Plate*") if path.is_dir()]
    return [place for path in paths if (place := path.relative_to(folder).as_posix()) not in own]
