"""The sites of a screen, whatever they were read from: one row each, and no image open.

A channel of a site is named by a reference, a text that `abra_wilds.data.reading.planes.read_plane` reads:
`images/a.png`, `a.tif`, `a.tif#plane=3`, `a.tif#channel=2`, `plate.zarr/B/03/0#c=1`.

Letters: n sites, C channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.data.reading.planes import Reference
from abra_wilds.errors import InputError

STACK = re.compile(r".+\.tiff?", re.IGNORECASE)
WELL = re.compile(r"([A-Za-z]{1,2})0*([1-9]\d*)")


@dataclass(frozen=True)
class Sites:
    """What a screen's table or folder says, every value as the text that stands there.

    Attributes:
        source: what the rows were read from, for messages.
        rows: (n rows) the metadata columns, all text, empty where nothing is said; the index is the line of
            each row in its table, or the place among the sites of a folder.
        channels: (C) names.
        references: (n, C) absolute references, "" where a channel has none.
        illumination: (n, C) references of illumination functions, "" where there is none; None without any.
        other_names: what else a channel may be called -> its name.
    """

    source: Path
    rows: pd.DataFrame
    channels: tuple[str, ...]
    references: NDArray[np.str_]
    illumination: NDArray[np.str_] | None = None
    other_names: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, k: int) -> str:
        """Where the k-th row stands in its source, for messages."""
        return f"{self.rows.index.name or 'line'} {self.rows.index[k]}"

    def where(self, k: int) -> str:
        """The same with the source."""
        return f"{self.place(k)} of {self.source}"

    def channel(self, name: str) -> str:
        """The channel of this name, or of this other name; a stranger's as it is."""
        return name if name in self.channels else self.other_names.get(name, name)

    def picked(self, own: Mapping[str, str]) -> Sites:
        """The sites with some of their channels, in this order and under other names.

        Args:
            own: name -> what `channels` calls it; empty for all as they are.

        Raises:
            InputError: for a channel that is not there.
        """
        if not own:
            return self
        chosen = [self.channel(name) for name in own.values()]
        absent = [name for name in chosen if name not in self.channels]
        if absent:
            raise InputError(
                f"{self.source} has no channel {absent[0]}; it has {', '.join(self.channels)}, so name what "
                "stands for it by --channels NAME=OWN"
            )
        at = [self.channels.index(name) for name in chosen]
        light = None if self.illumination is None else self.illumination[:, at]
        return replace(self, channels=tuple(own), references=self.references[:, at], illumination=light)

    def of_plane(self, plane: str | None) -> Sites:
        """The sites with a plane, by number from 0 or "max", of the stacks whose references name none."""
        if plane is None:
            return self
        named = [f"{text}#plane={plane}" if STACK.fullmatch(text) else text for text in self.references.flat]
        return replace(self, references=np.array(named).reshape(self.references.shape))


def check_sites(sites: Sites) -> Sites:
    """The sites, each of whose channels has an image of its own.

    Raises:
        InputError: for a channel without one, one file for two channels, or two sites of one image.
    """
    references, channels = sites.references, sites.channels
    empty = np.argwhere(references == "")
    if len(empty):
        k, c = empty[0]
        raise InputError(
            f"{sites.where(k)} has no file of channel {channels[c]}, and in all {len(set(empty[:, 0])):,} of "
            f"{len(sites):,} sites lack one; restore it, or choose channels that all have by --channels"
        )
    order = np.argsort(references, axis=None, kind="stable")
    flat = references.reshape(-1)[order]
    again = np.flatnonzero(flat[1:] == flat[:-1])
    if len(again):
        (k, c), (other, d) = (divmod(int(order[at]), len(channels)) for at in (again[0], again[0] + 1))
        raise InputError(
            f"{flat[again[0]]} is channel {channels[c]} of {sites.where(k)} and channel {channels[d]} of "
            f"{sites.where(other)}; an image belongs to one channel of one site, so correct one of them"
        )
    return sites


def file_of(reference: str) -> Path:
    """The file, or the folder of a zarr array, that a reference is of.

    >>> file_of("a.tif#plane=3").as_posix()
    'a.tif'
    """
    return Path(Reference.of(reference).path)


def well_key(well: str) -> str:
    """A well's name by which others are the same well; what is no row and column stays.

    >>> [well_key(name) for name in ("A1", "a01", "AF48", "42")]
    ['A01', 'A01', 'AF48', '42']
    """
    found = WELL.fullmatch(well)
    return f"{found[1].upper()}{int(found[2]):02}" if found else well
