"""Training images that are not as the data set has them: flagged by `abra-wilds qc`, or with shuffled labels.

Flags are found by the names of sites.

Letters: n sites.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from abra_wilds.data.datasets.catalogue import subset_of
from abra_wilds.data.datasets.tables import read_table
from abra_wilds.errors import InputError

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset, WILDSSubset

SITE = ("Metadata_Plate", "Metadata_Well", "Metadata_Site")
FLAG = "Metadata_QC"
OF_PLATE = "plate: "  # how a reason begins that all sites of a plate have
_WELL_NAME = re.compile(r"([A-Za-z]{1,2})(\d{1,2})")


def well_name(name: str) -> str:
    """A well's name with two digits after its row, as JUMP writes it; another name stays as it is.

    >>> well_name("b2"), well_name("AF48"), well_name("17")
    ('B02', 'AF48', '17')
    """
    found = _WELL_NAME.fullmatch(name)
    return name if found is None else f"{found[1].upper()}{int(found[2]):02}"


def site_names(dataset: WILDSDataset) -> pd.DataFrame:
    """The batch of every row of a data set, and what SITE names it by, (n rows) of text.

    Plates that are numbers, which begin again in each experiment, are named by both.

    Args:
        dataset: from `load_dataset`.
    """
    codes = dict(zip(dataset.metadata_fields, dataset.metadata_array.numpy().T, strict=True))

    def texts(field: str) -> NDArray[np.object_]:
        if field not in dataset.metadata_map:
            return np.array([str(code) for code in codes[field]], dtype=object)
        return np.array([str(name) for name in dataset.metadata_map[field]], dtype=object)[codes[field]]

    batch, plate = texts("experiment"), texts("plate")
    if "plate" not in dataset.metadata_map:
        plate = batch + "_" + plate
    wells = [well_name(name) for name in texts("well")]
    names = ("Metadata_Batch", *SITE)
    return pd.DataFrame(dict(zip(names, (batch, plate, wells, texts("site")), strict=True)), dtype=object)


def flags_of(sites: pd.DataFrame, path: Path) -> NDArray[np.object_]:
    """What a table of `abra-wilds qc` says of sites, (n,) text: its reasons, or "" where nothing is wrong.

    Args:
        sites: (n rows) with the columns SITE, of text or numbers; a table of predictions, or `site_names`.
        path: of the table, or of one like it: csv with the columns SITE and Metadata_QC.

    Raises:
        InputError: if it is no such table, names a site twice, or lacks one of these.
    """
    table = read_table(path, [*SITE, FLAG])
    keys = _keys(table)
    twice = keys.duplicated()
    if twice.any():
        line, named = (
            table.index[twice.argmax()],
            "site {2} of well {1}, plate {0}".format(*keys[twice.argmax()]),
        )
        raise InputError(f"line {line} of --qc {path} has {named} again; keep one line a site")
    flags = pd.Series(table[FLAG].to_numpy(), keys)
    wanted = _keys(sites)
    absent = ~wanted.isin(keys)
    if absent.any():
        named = "site {2} of well {1}, plate {0}".format(*wanted[absent.argmax()])
        raise InputError(
            f"--qc {path} has no line for {int(absent.sum()):,} of {len(wanted):,} sites, first {named}; "
            "give the qc.csv that `abra-wilds qc` wrote for this data set"
        )
    return np.asarray(flags.loc[wanted].to_numpy(), dtype=object)


def set_apart(flags: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Which sites (n,) have a reason of their own, and so no part in what a model is adapted to.

    What is wrong with a plate as a whole is what an adaptation is to remove.

    >>> set_apart(np.array(["", "blurred", "plate: stain ER x2", "empty; plate: stain ER x2"], dtype=object))
    array([False,  True, False,  True])
    """
    own = [bool(text) and not all(r.startswith(OF_PLATE) for r in text.split("; ")) for text in flags]
    return np.array(own, dtype=bool)


def _keys(table: pd.DataFrame) -> pd.MultiIndex:
    """Plate, well and site of each row, as they are compared."""
    plate, well, site = (table[name].astype(str) for name in SITE)
    return pd.MultiIndex.from_arrays([plate, well.map(well_name), site])


def without_flagged(subset: WILDSSubset, path: Path) -> tuple[WILDSSubset, str]:
    """A split without the images that a table flags, and a line that says how many and why.

    Raises:
        InputError: as `flags_of`, or if all are flagged.
    """
    flags = flags_of(site_names(subset.dataset).iloc[subset.indices], path)
    kept = subset.indices[flags == ""]
    if not len(kept):
        raise InputError(f"--qc {path} flags all {len(flags):,} training images; correct it or leave it out")
    return subset_of(subset.dataset, kept), flag_line(flags, path)


def flag_line(flags: NDArray[np.object_], path: str | Path) -> str:
    """How many sites a table flags, and why, in a line for the log.

    >>> flag_line(np.array(["", "blurred; dim ER", "blurred", ""], dtype=object), "qc.csv")
    '2 of 4 training images are left out, as qc.csv flags them: blurred 2, dim ER 1'
    """
    reasons = pd.Series([reason for text in flags if text for reason in text.split("; ")], dtype=object)
    counts: Any = reasons.value_counts().items()
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts)
    n = sum(map(bool, flags))
    return f"{n:,} of {len(flags):,} training images are left out, as {path} flags them: {reasons or 'none'}"


def with_shuffled_labels(subset: WILDSSubset, seed: int) -> tuple[WILDSSubset, str]:
    """A split whose images have each other's labels, and a line that says so; metadata stay as they are.

    Its data set is a copy, so that other splits keep their labels.
    """
    dataset, rows = copy.copy(subset.dataset), torch.as_tensor(subset.indices)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))
    dataset._y_array = dataset.y_array.clone()
    dataset._y_array[rows] = subset.y_array[order]
    line = f"labels of all {len(rows):,} training images are permuted by --shuffle_labels {seed}"
    return subset_of(dataset, subset.indices), line
