"""A small screen of one's own as a LoadData table: two channels, plates by name, wells of known classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

CHANNELS = ("DNA", "ER")
BATCHES = ("2020_a", "2020_b", "2020_c", "2020_d")
WELLS = {"A01": "DMSO", "A02": "taxol", "B01": "nocodazole"}
SHARED = Path(__file__).resolve().parents[4] / "shared" / "real"


def small_rows(batches: Sequence[str] = BATCHES, plates: int = 2) -> pd.DataFrame:
    """One row a site: two plates a batch, three wells, two sites."""
    return pd.DataFrame(
        [
            {
                "Metadata_Batch": batch,
                "Metadata_Plate": f"{batch}_00{plate}",
                "Metadata_Well": well,
                "Metadata_Site": str(site),
                "Metadata_Drug": drug,
                **{f"FileName_Orig{name}": f"{well}_s{site}_{name}.png" for name in CHANNELS},
                **{f"PathName_Orig{name}": f"images/{batch}_00{plate}" for name in CHANNELS},
            }
            for batch in batches
            for plate in range(plates)
            for well, drug in WELLS.items()
            for site in (1, 2)
        ],
        dtype=object,
    )


def mitocheck_rows() -> pd.DataFrame:
    """The columns of MitoCheck's table: twelve dates, three phenotypes, a frame a cell."""
    rows = small_rows(tuple(f"2005_{month:02}" for month in range(1, 13)))
    rows = pd.concat(
        [rows.assign(Metadata_Site=rows["Metadata_Site"] + str(k)) for k in range(3)], ignore_index=True
    )
    rows["Metadata_Frame"] = [f"frame{k}" for k in range(len(rows))]
    for column in [c for c in rows if c.startswith("FileName")]:
        rows[column] = [f"{k}_{name}" for k, name in enumerate(rows[column])]
    return rows.rename(columns={"Metadata_Drug": "Metadata_Phenotype"})


def write_screen(folder: Path, rows: pd.DataFrame | None = None, size: int = 8) -> Path:
    """Write the table and its images, whose pixels say which they are; returns the table."""
    rows = small_rows() if rows is None else rows
    for k, row in enumerate(rows.to_dict("records")):
        for c, name in enumerate(CHANNELS):
            if row[f"FileName_Orig{name}"]:
                path = folder / row[f"PathName_Orig{name}"] / row[f"FileName_Orig{name}"]
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture(k, c, size)).save(path)
    return write_table(folder, rows)


def write_table(folder: Path, rows: pd.DataFrame) -> Path:
    """The table of a screen whose images are there."""
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "load_data.csv", index=False)
    return folder / "load_data.csv"


def picture(k: int, c: int, size: int = 8) -> np.ndarray:
    """The pixels of channel c of the k-th row, (size, size) uint8."""
    return np.random.default_rng([k, c]).integers(0, 256, (size, size), dtype=np.uint8)
