"""Who sits where: the table of wells of a screen laid out like RxRx1, without any picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from abra_wilds.simulate.config import PLATE_COLUMNS, PLATE_ROWS, PLATES, SimulationConfig
from abra_wilds.simulate.traits import CELL_LINES

COLUMNS = (
    "site_id",
    "well_id",
    "cell_type",
    "dataset",
    "experiment",
    "plate",
    "well",
    "site",
    "well_type",
    "sirna",
    "sirna_id",
)
WELL_NAMES = tuple(f"{row}{column:02d}" for row in PLATE_ROWS for column in PLATE_COLUMNS)  # 308, row by row
# Wells that the published data set lacks, by split; an image row is lost for each of its two sites. No plate
# lacks more than four. train: 33 x 1,232 - 40,612; val: 4 x 1,232 - 9,854 / 2; test: 14 x 1,232 - 34,432 / 2.
_MISSING = {"train": 44, "val": 1, "test": 32}
_MISSING_PER_PLATE = 4
_PLATES_TAG, _WELLS_TAG, _MISSING_TAG = 201, 202, 203


def experiments(config: SimulationConfig) -> list[tuple[str, str, str]]:
    """Name every experiment as (cell line, split, name), numbered by line, training first as in RxRx1-WILDS.

    >>> experiments(SimulationConfig(train_experiments=(1, 0, 0, 0), test_experiments=(0, 0, 0, 0)))[:2]
    [('HEPG2', 'train', 'HEPG2-01'), ('HEPG2', 'val', 'HEPG2-02')]
    """
    named = []
    for at, line in enumerate(CELL_LINES):
        splits = (
            ["train"] * config.train_experiments[at]
            + ["val"] * config.val_experiments[at]
            + ["test"] * config.test_experiments[at]
        )
        named += [(line, split, f"{line}-{number:02d}") for number, split in enumerate(splits, start=1)]
    return named


def wells_table(config: SimulationConfig) -> pd.DataFrame:
    """Lay out every plate.

    The treatments are divided into four sets, one for each plate of an experiment. Which plate carries which
    set, and which treatment sits where, is drawn again for every experiment, so that neither plate number nor
    well gives a class away. As in RxRx1 the negative control sits in B02 and the positive controls in fixed
    wells, in random order.

    Args:
        config: of the screen.

    Returns:
        One row a well in plate order: the COLUMNS that do not depend on the site, and `experiment_index` and
        `well_index`, which seed the pictures. `dataset` is WILDS' train, val or test.
    """
    plates = [
        _plate(config, number, experiment, plate)
        for number, experiment in enumerate(experiments(config))
        for plate in PLATES
    ]
    wells = pd.concat(plates, ignore_index=True)
    return _without_missing(wells, config.seed) if config.is_official_geometry else wells


def metadata_table(config: SimulationConfig) -> pd.DataFrame:
    """Write out metadata.csv: one row a site (`COLUMNS`), all sites of a well in a row.

    The layout "rxrx1" knows train and test only: WILDS carved its validation out of the research release's
    test.
    """
    wells = wells_table(config)
    sites = pd.DataFrame({"site": np.arange(1, config.sites + 1)})
    table = wells.merge(sites, how="cross")
    table["site_id"] = table["well_id"] + "_" + table["site"].astype(str)
    if config.layout == "rxrx1":
        table["dataset"] = table["dataset"].replace("val", "test")
    return table[list(COLUMNS)]


def _plate(
    config: SimulationConfig, number: int, experiment: tuple[str, str, str], plate: int
) -> pd.DataFrame:
    """The wells of one plate, in well order."""
    line, split, name = experiment
    ids = np.empty(config.wells, np.int64)
    free = np.ones(config.wells, bool)
    rng = np.random.default_rng([config.seed, _WELLS_TAG, number, plate])
    # Evenly spread over the plate, and never in B02.
    fixed = 1 + (np.arange(config.n_positives) * (config.wells - 1)) // config.n_positives
    ids[0] = config.classes - 1
    ids[fixed] = rng.permutation(np.arange(config.n_treatments, config.classes - 1))
    free[0] = free[fixed] = False
    ids[free] = rng.permutation(np.repeat(_treatments(config, number, plate), config.replicates))
    well = np.array(WELL_NAMES[: config.wells])
    return pd.DataFrame(
        {
            "well_id": [f"{name}_{plate}_{w}" for w in well],
            "cell_type": line,
            "dataset": split,
            "experiment": name,
            "plate": plate,
            "well": well,
            "well_type": [well_type(config, i) for i in ids.tolist()],
            "sirna": [_sirna_name(config, i) for i in ids.tolist()],
            "sirna_id": ids,
            "experiment_index": number,
            "well_index": np.arange(config.wells),
        }
    )


def _treatments(
    config: SimulationConfig, number: int, plate: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The treatments of one plate: one of the four sets, (n_treatments / 4,)."""
    sets = np.random.default_rng([config.seed, _PLATES_TAG]).permutation(config.n_treatments)
    order = np.random.default_rng([config.seed, _PLATES_TAG, 1, number]).permutation(len(PLATES))
    share = config.n_treatments // len(PLATES)
    start = int(order[PLATES.index(plate)]) * share
    return np.sort(sets[start : start + share])


def well_type(config: SimulationConfig, sirna_id: int) -> str:
    """Whether a class is a treatment, a positive_control or the negative_control."""
    if sirna_id < config.n_treatments:
        return "treatment"
    return "negative_control" if sirna_id == config.classes - 1 else "positive_control"


def _sirna_name(config: SimulationConfig, sirna_id: int) -> str:
    """A name that cannot be taken for a catalogue number of a real siRNA."""
    return "EMPTY" if sirna_id == config.classes - 1 else f"sim{sirna_id:04d}"


def _without_missing(wells: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Drop the treatment wells that the published data set lacks, so that its row counts come out exactly."""
    drop = [row for split in _MISSING for row in _missing_rows(wells, split, seed)]
    return wells.drop(index=drop).reset_index(drop=True)


def _missing_rows(wells: pd.DataFrame, split: str, seed: int) -> Iterator[int]:
    """Choose _MISSING[split] treatment wells, up to four on each of a few plates."""
    rng = np.random.default_rng([seed, _MISSING_TAG, list(_MISSING).index(split)])
    rows = wells[(wells["dataset"] == split) & (wells["well_type"] == "treatment")]
    groups = [group.index.to_numpy() for _, group in rows.groupby(["experiment", "plate"])]
    left = _MISSING[split]
    for at in rng.permutation(len(groups)):
        n = min(left, int(rng.integers(1, _MISSING_PER_PLATE + 1)))
        yield from (int(row) for row in rng.choice(groups[at], n, replace=False))
        left -= n
        if left == 0:
            return
