"""metadata.csv of the whole RxRx1-WILDS, 125,510 rows, from the wells of the real screen and no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from abra_wilds.simulate.design import COLUMNS
from tests import runs

WELLS = runs.REPOSITORY.parent / "shared" / "rxrx1"
TABLES = ("train", "train_controls", "test", "test_controls")

# The first test experiment of each line. Of the 4*8*4*2 = 256 choices of one a line, 32 give the published
# 9,854 images (`val_choices`); a public description of the split numbers its four 7, 27, 42 and 49 of the 51,
# which are these.
VAL_EXPERIMENTS = ("HEPG2-08", "HUVEC-17", "RPE-08", "U2OS-04")
COUNTS = {"train": 40_612, "id_test": 40_612, "val": 9_854, "test": 34_432}


def needed() -> None:
    """Skip where the tables of the real screen do not lie beside the checkout."""
    if not all((WELLS / f"{name}.csv").is_file() for name in TABLES):
        pytest.skip(f"the real wells are not in {WELLS}")


def write_full_metadata(root: Path) -> Path:
    """Write rxrx1_v1.0/metadata.csv and its release file under root, and return root."""
    folder = root / "rxrx1_v1.0"
    folder.mkdir(parents=True)
    full_metadata().to_csv(folder / "metadata.csv", index=False)
    (folder / "RELEASE_v1.0.txt").touch()
    return root


def full_metadata() -> pd.DataFrame:
    """Every well twice, by experiment, plate, well and site; labels of test treatments are made up."""
    wells = {name: pd.read_csv(WELLS / f"{name}.csv") for name in TABLES}
    rng = np.random.default_rng(0)
    # Each treatment at most once an experiment, as in training; the real labels are not in these tables.
    wells["test"]["sirna"] = wells["test"].groupby("experiment").cumcount()
    wells["test"]["sirna"] = wells["test"].groupby("experiment")["sirna"].transform(rng.permutation)
    parts = [table.assign(dataset=name.split("_")[0]) for name, table in wells.items()]
    rows = pd.concat(parts, ignore_index=True).sort_values(["experiment", "plate", "well"])
    rows = rows.loc[rows.index.repeat(2)].reset_index(drop=True)
    rows["site"] = np.tile([1, 2], len(rows) // 2)
    rows.loc[rows["experiment"].isin(VAL_EXPERIMENTS), "dataset"] = "val"
    rows["well_type"] = rows["well_type"].fillna("treatment")
    rows["cell_type"] = rows["experiment"].str.split("-").str[0]
    rows["sirna_id"] = rows["sirna"].astype(int)
    rows["well_id"] = rows["id_code"]
    rows["site_id"] = rows["id_code"] + "_" + rows["site"].astype(str)
    return rows[list(COLUMNS)]


def val_choices() -> list[tuple[str, ...]]:
    """Every choice of one test experiment a line that gives the published number of validation images."""
    tests = pd.concat([pd.read_csv(WELLS / f"{name}.csv") for name in TABLES if name.startswith("test")])
    images = 2 * tests.groupby("experiment").size()
    line = pd.Series(images.index.str.split("-").str[0], index=images.index)
    choices: list[tuple[str, ...]] = [()]
    for _, members in images.groupby(line):
        choices = [(*chosen, name) for chosen in choices for name in members.index]
    return [chosen for chosen in choices if images[list(chosen)].sum() == COUNTS["val"]]
