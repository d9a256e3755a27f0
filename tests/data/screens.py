"""Screens of one's own and in the competition's layout, tiny, for tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

KEYS = ["experiment", "plate", "well"]


def own_screen(
    root: Path,
    experiments: Mapping[str, str],
    sites: Iterable[int] = (1, 2),
    stains: int = 6,
    bits: int = 8,
    side: int = 4,
) -> pd.DataFrame:
    """Write root/rxrx1 of one plate an experiment, three wells (the first a control), and square images.

    Args:
        root: the root_dir.
        experiments: name -> its mark in the column dataset; its line is the name before the dash.
        sites: of each well.
        stains: of each site.
        bits: of a pixel, 8 or 16.
        side: of an image.
    """
    rows = []
    rng = np.random.default_rng(0)
    for (experiment, mark), well, site in itertools.product(experiments.items(), range(3), sites):
        name = f"B{well + 2:02}"
        kind = "treatment" if well else "negative_control"
        rows.append([experiment.split("-")[0], experiment, 1, name, site, mark, kind, well])
        for stain in range(1, stains + 1):
            path = root / "rxrx1" / "images" / experiment / "Plate1" / f"{name}_s{site}_w{stain}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 2**bits, (side, side), dtype=f"uint{bits}")).save(path)
    columns = ["cell_type", *KEYS, "site", "dataset", "well_type", "sirna_id"]
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(root / "rxrx1" / "metadata.csv", index=False)
    return table


def write_tables(folder: Path, metadata: pd.DataFrame, name: str = "{}") -> None:
    """Write the competition's four tables of a metadata.csv, wells in another order than its own.

    Args:
        folder: exists.
        metadata: its rows, which mark train and test alone.
        name: of the class with a number.
    """
    wells = metadata.drop_duplicates(KEYS).sample(frac=1, random_state=0)
    wells["id_code"] = wells["experiment"] + "_" + wells["plate"].astype(str) + "_" + wells["well"]
    wells["sirna"] = wells["sirna_id"].map(name.format)
    treated = wells["well_type"] == "treatment"
    for split in ("train", "test"):
        here = wells["dataset"] == split
        columns = ["id_code", *KEYS, "sirna"]
        wells[here & treated][columns].to_csv(folder / f"{split}.csv", index=False)
        wells[here & ~treated][[*columns, "well_type"]].to_csv(folder / f"{split}_controls.csv", index=False)


def as_competition(folder: Path, tops: tuple[str, str] = ("train", "test"), name: str = "{}") -> pd.DataFrame:
    """Turn a data set's folder into the competition's layout, and return what metadata.csv had said.

    Args:
        folder: holds metadata.csv and images.
        tops: where the images of training and test experiments go.
        name: of the class with a number.
    """
    metadata = pd.read_csv(folder / "metadata.csv")
    (folder / "metadata.csv").unlink()
    write_tables(folder, metadata, name)
    (folder / "images").rename(folder / "all")
    for experiment, mark in metadata[["experiment", "dataset"]].drop_duplicates().to_numpy():
        top = folder / tops[int(mark == "test")]
        top.mkdir(exist_ok=True)
        (folder / "all" / experiment).rename(top / experiment)
    (folder / "all").rmdir()
    return metadata
