"""Screens in the layout of RxRx1, which RxRx2 and RxRx19 share, as sites; see `data.datasets.layouts`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from abra_wilds.data.datasets.controls import known_kinds
from abra_wilds.data.datasets.layouts import METADATA, STAINS, find_layout
from abra_wilds.data.datasets.metadata import class_texts
from abra_wilds.data.screens.sites import Sites


def read_rxrx(folder: Path) -> Sites:
    """The sites of a screen in this layout; classes are named by the column sirna, or else by number.

    Raises:
        InputError: as `find_layout`.
    """
    layout = find_layout(folder)
    rows, labels = layout.rows, layout.rows["sirna_id"].to_numpy()
    texts = class_texts(layout.folder / METADATA) if layout.table.name == METADATA else {}
    distinct = len({*texts.values()} - {""}) == len(texts)
    names = {k: texts[k] if texts and distinct else str(k) for k in np.unique(labels).tolist()}
    kinds = known_kinds(rows.get("well_type"), labels, int(labels.max()) + 1, layout.table)
    columns = {
        "Metadata_Batch": rows["experiment"],
        "Metadata_Plate": rows["plate"].astype(str),
        "Metadata_Well": rows["well"],
        "Metadata_Site": rows["site"].astype(str),
        "Metadata_Cell_Line": rows["cell_type"],
        "Metadata_Label": [names[k] for k in labels.tolist()],
        "Metadata_Split": rows["dataset"],
        **({} if kinds is None else {"Metadata_control_type": kinds}),
    }
    found = pd.DataFrame(columns, rows.index, dtype=object)
    n = len(layout.suffixes)
    channels = STAINS[:n] if n <= len(STAINS) else tuple(str(k + 1) for k in range(n))
    top = layout.folder.absolute().as_posix()
    references = np.array([[f"{top}/{stem}{end}" for end in layout.suffixes] for stem in layout.stems])
    return Sites(layout.table, found, channels, references)
