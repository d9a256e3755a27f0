"""What the commands of the pages take, by the pages' names: tiny data, screens, runs and models."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from abra_wilds import fit, run_config
from abra_wilds.config.data import MARKER
from abra_wilds.nets import backbones
from tests import runs
from tests.analysis.answers import made
from tests.analysis.answers.conftest import trained

__all__ = ["trained"]
LABELLED = [f"b{batch}{plate}" for batch in range(6) for plate in "xy"]
# A plate of two sites each has the 16 images that statistics are taken of.
WELLS = {**made.WELLS, "C01": "DMSO", "C02": "nocodazole", "D01": "taxol", "D02": "nocodazole"}


def use_tiny_networks(patch: pytest.MonkeyPatch) -> None:
    """Let the networks that pages name, unless of timm, be tiny ones."""
    for name in ("resnet18", "resnet50", "densenet121"):
        patch.setitem(backbones.BACKBONES, name, runs.tiny_backbone)


def write_rxrx1(sim_root: Path, folder: Path) -> None:
    """Two lines of the tiny RxRx1-WILDS, with a gene for each class, as a simulated screen."""
    data = folder / "rxrx1_v1.0"
    data.mkdir(parents=True)
    rows = pd.read_csv(sim_root / "rxrx1_v1.0" / "metadata.csv")
    rows = rows[rows["cell_type"].isin(["HEPG2", "HUVEC"])]
    rows.assign(gene=[f"gene{label // 2}" for label in rows["sirna_id"]]).to_csv(
        data / "metadata.csv", index=False
    )
    for experiment in rows["experiment"].unique():
        shutil.copytree(sim_root / "rxrx1_v1.0" / "images" / experiment, data / "images" / experiment)
    (data / "RELEASE_v1.0.txt").touch()
    (data / MARKER).write_text("{}")


def write_phenix(folder: Path) -> None:
    """`plates` as an Opera Phenix exports them, four wells each, and `platemaps` of what the wells hold."""
    maps = folder / "platemaps" / "platemap"
    maps.mkdir(parents=True)
    wells = [
        ("A01", "DMSO", "negcon"),
        ("A02", "BRD-1", "trt"),
        ("B01", "BRD-2", "trt"),
        ("B02", "BRD-1", "trt"),
    ]
    columns = ["well_position", "broad_sample", "control_type"]
    pd.DataFrame(wells, columns=columns).to_csv(maps / "M1.txt", sep="\t", index=False)
    names = [f"P{k}" for k in range(8)]
    codes = pd.DataFrame({"Assay_Plate_Barcode": names, "Plate_Map_Name": "M1"})
    codes.to_csv(maps.parent / "barcode_platemap.csv", index=False)
    rng = np.random.default_rng(0)
    for name in names:
        images = folder / "plates" / name / "Images"
        images.mkdir(parents=True)
        for place in (
            f"r0{r}c0{c}f0{f}p01-ch{k}" for r in (1, 2) for c in (1, 2) for f in (1, 2) for k in range(1, 6)
        ):
            tifffile.imwrite(
                images / f"{place}sk1fk1fl1.tiff", rng.integers(0, 4096, (16, 16), dtype=np.uint16)
            )


def train(*names: str, algorithm: str = "ABRA", seed: int = 0, **flags: object) -> None:
    """A run in a folder below the current one."""
    flags |= {"model": "resnet50", "seed": seed, "lr": 0.01}
    fit(run_config(algorithm, **runs.settings(Path("data"), Path(*names), algorithm, **flags)))


@pytest.fixture(scope="module")
def shelf(
    sim_root: Path, six_root: Path, others_root: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder that each page gets a copy of; runs in it have relative paths."""
    shelf = tmp_path_factory.mktemp("shelf")
    write_rxrx1(sim_root, shelf / "data")
    for root in (six_root, others_root):
        shutil.copytree(root, shelf / "data", dirs_exist_ok=True)
    made.write(shelf / "plates", made.rows_of(LABELLED, wells=WELLS))
    made.write(shelf / "new_plates", made.rows_of(["newP", "newQ"], labels=False, wells=WELLS))
    write_phenix(shelf / "phenix")
    shutil.copytree(trained / "model", shelf / "model")
    (shelf / "known.csv").write_text("first,second\ngene0,gene1\ngene1,gene2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shelf)
        use_tiny_networks(patch)
        for seed in range(3):
            train("runs", "ABRA", f"seed{seed}", seed=seed)
        train("runs", "ERM", "seed0", algorithm="ERM")
        for seed in range(3):
            shutil.copytree(f"runs/ABRA/seed{seed}", "predictions", dirs_exist_ok=True)
    return shelf
