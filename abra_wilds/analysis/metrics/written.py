"""Metrics of the wells that a command embeds: checked before, printed, and written as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.analysis.metrics.cells import metrics_text
from abra_wilds.analysis.metrics.relations import read_pairs
from abra_wilds.analysis.metrics.table import check_packages, reviewed
from abra_wilds.analysis.profiles import TREATED_WELL, annotation_column, well_means, wells_of
from abra_wilds.errors import InputError
from abra_wilds.results.files import write_text

MODEL = "model"


def check_metrics(which: str | None, annotation: str | None, pairs: Path | None) -> list[tuple[str, str]]:
    """The known pairs of a file, none without one.

    Raises:
        InputError: for a missing package, a file that holds no pairs, or what needs --metrics.
    """
    if which is None:
        for flag, value in (("--annotation", annotation), ("--pairs", pairs)):
            if value is not None:
                raise InputError(f"{flag} {value} is read by --metrics alone; add that, or leave it out")
        return []
    check_packages()
    return [] if pairs is None else read_pairs(pairs)


def write_metrics(
    path: Path,
    features: Mapping[str, NDArray[np.float32]],
    table: pd.DataFrame,
    about: Mapping[str, Any],
    *,
    which: str,
    pairs: Sequence[tuple[str, str]],
) -> None:
    """Measure wells, print a table of the numbers, and write them as JSON.

    Args:
        path: of the file.
        features: name of a row of the table -> (n, D) of sites.
        table: (n rows) of sites, from `profiles`.
        about: where they come from; "annotation" names the column of annotations or is None.
        which: of `table.SETS`.
        pairs: known ones.
    """
    well, wells = wells_of(table, TREATED_WELL)
    group = None if about["annotation"] is None else annotation_column(about["annotation"])
    means = {name: well_means(f, well) for name, f in features.items()}
    entries = reviewed(means, wells, which, group=group, pairs=pairs)
    write_text(path, json.dumps({**about, "level": "well", "metrics": entries}, indent=2) + "\n")
    data = "simulated data" if about["simulated"] else about["dataset"]
    title = f"Embeddings on {data}; a well is one row, with its sites of all splits"
    sys.stdout.write(f"{title}\n{metrics_text(entries)}")
