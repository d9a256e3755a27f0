"""The sites of a screen, whatever they were read from: one row each, and no image open.

A channel of a site is named by a reference, a text that `abra_wilds.data.reading.planes.read_plane` reads:
`images/a.png`, `a.tif`, `a.tif#plane=3`, `a.tif#channel=2`, `plate.zarr/B/03/0#c=1`.

Letters: n sites, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Sites:
    """What a screen's table or folder says, every value as the text that stands there.

    Attributes:
        source: what the rows were read from, for messages.
        rows: (n rows) the metadata columns, all text, empty where nothing is said; the index is the line of
            each row in its table, or the place among the sites of a folder.
        channels: (C) names.
        references: (n, C) absolute references.
        illumination: (n, C) references of illumination functions, "" where there is none; None without any.
    """

    source: Path
    rows: pd.DataFrame
    channels: tuple[str, ...]
    references: NDArray[np.str_]
    illumination: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.rows)


def file_of(reference: str) -> Path:
    """The file, or the folder of a zarr array, that a reference is of.

    >>> file_of("a.tif#plane=3").as_posix()
    'a.tif'
    """
    return Path(reference.partition("#")[0])
