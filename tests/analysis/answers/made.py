"""Small screens of five stains as LoadData tables with 16-bit TIFF, and their images standardised by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import torch

STAINS = ("DNA", "RNA", "ER", "AGP", "Mito")
WELLS = {"A01": "DMSO", "A02": "taxol", "B01": "nocodazole", "B02": "taxol"}
SIDE = 16


def rows_of(plates: Sequence[str], labels: bool = True, wells: Mapping[str, str] = WELLS) -> pd.DataFrame:
    """One row a site, two sites a well; the batch is what stands before the plate's last letter."""
    return pd.DataFrame(
        [
            {
                "Metadata_Batch": plate[:-1],
                "Metadata_Plate": plate,
                "Metadata_Well": well,
                "Metadata_Site": str(site),
                "Metadata_Dose": "001",
                **(named(drug) if labels else {}),
                **{f"FileName_Orig{name}": f"{plate}_{well}_{site}_{name}.tif" for name in STAINS},
                **{f"PathName_Orig{name}": "images" for name in STAINS},
            }
            for plate in plates
            for well, drug in wells.items()
            for site in (1, 2)
        ],
        dtype=object,
    )


def named(drug: str) -> dict[str, str]:
    """What the table of a labelled screen says of a well."""
    return {"Metadata_Label": drug, "Metadata_control_type": "negcon" if drug == "DMSO" else "trt"}


def write(folder: Path, rows: pd.DataFrame, names: Mapping[str, str] | None = None, seed: int = 0) -> Path:
    """Write images and the table, whose channels may have other names; returns the table's path."""
    (folder / "images").mkdir(parents=True)
    for k, row in enumerate(rows.to_dict("records")):
        for c, name in enumerate(STAINS):
            tifffile.imwrite(folder / "images" / row[f"FileName_Orig{name}"], picture(row, k, c, seed))
    names = names or {}
    table = rows.rename(
        columns={
            f"{kind}_Orig{name}": f"{kind}_Orig{names.get(name, name)}"
            for name in STAINS
            for kind in ("FileName", "PathName")
        }
    )
    table.to_csv(folder / "load_data.csv", index=False)
    return folder / "load_data.csv"


def picture(row: Mapping[str, str], k: int, c: int, seed: int) -> np.ndarray:
    """Noise of 12 bits at a plate's own level, with a stripe whose place follows the class in one channel."""
    rng = np.random.default_rng([seed, k, c])
    plate = sum(map(ord, row["Metadata_Plate"])) % 7
    x = rng.integers(300, 900, (SIDE, SIDE)) + 90 * plate
    drug = WELLS.get(row["Metadata_Well"], "taxol")
    if c == 2:
        x[:, 4 * (len(drug) % 4) : 4 * (len(drug) % 4) + 3] += 1500
    return x.astype(np.uint16)


def stain(folder: Path, plate: str) -> None:
    """Make a plate of a screen a stain outlier: every image gets brighter to one side."""
    for path in (folder / "images").glob(f"{plate}_*.tif"):
        tifffile.imwrite(path, tifffile.imread(path) + 4 * np.arange(SIDE, dtype=np.uint16) ** 2)


def standardised(folder: Path, rows: pd.DataFrame, order: Sequence[str] = STAINS) -> torch.Tensor:
    """The images (n, 5, H, W) in a model's order of channels, each standardised, all by NumPy."""
    out = []
    for row in rows.to_dict("records"):
        site = []
        for name in order:
            x = tifffile.imread(folder / "images" / row[f"FileName_Orig{name}"]).astype(np.float64)
            site.append((x - x.mean()) / x.std(ddof=1))
        out.append(np.stack(site))
    return torch.from_numpy(np.stack(out)).float()
