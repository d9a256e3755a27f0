"""Twelve real sites without labels, found by their names, predicted by a model of simulated five stains."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from abra_wilds import fit, load_model, run_config
from abra_wilds.__main__ import main
from tests import runs
from tests.data.six import write_small_six

LINCS = Path(__file__).resolve().parents[4] / "shared" / "real" / "lincs"
STAINS = ("DNA", "RNA", "ER", "AGP", "Mito")  # what channels 1 to 5 of the real plates show


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on five of six simulated stains, under the names of the real ones."""
    folder = tmp_path_factory.mktemp("five")
    write_small_six(folder / "data")
    own = ("Hoechst", "SYTO 14", "ConA", "WGA", "MitoTracker")
    channels = [f"{name}={stain}" for name, stain in zip(STAINS, own, strict=True)]
    flags = {"dataset": None, "root_dir": None, "screen": str(folder / "data"), "channels": channels}
    flags |= {"target_resolution": [64], "lr": 0.02}
    with pytest.MonkeyPatch.context() as patch:
        runs.use_tiny_backbone(patch)
        fit(run_config("ABRA", **runs.settings(folder, folder / "run", "ABRA", **flags)))
    return folder / "run" / "model"


@pytest.mark.slow
@pytest.mark.skipif(not LINCS.is_dir(), reason=f"{LINCS} is not here")
def test_twelve_unlabelled_sites_of_three_plates_are_predicted_right_row_by_row(
    trained, tmp_path, monkeypatch, capsys
):
    runs.use_tiny_backbone(monkeypatch)
    channels = [f"{name}={k}" for k, name in enumerate(STAINS, start=1)]
    words = ["predict", str(trained), "--screen", str(LINCS), "--channels", *channels, "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "out"), "--loader_kwargs", "num_workers=0"]) == 0
    sites = pd.read_parquet(tmp_path / "out" / "sites.parquet")
    wells = pd.read_parquet(tmp_path / "out" / "wells.parquet")
    model = load_model(trained, "cpu")
    assert model.about["data"]["simulated"] and tuple(model.channels) == STAINS
    assert (len(sites), len(wells), sites["Metadata_Plate"].nunique()) == (12, 6, 3)
    for row in sites.to_dict("records"):
        letter, column = ord(row["Metadata_Well"][0]) - 64, int(row["Metadata_Well"][1:])
        stem = f"r{letter:02}c{column:02}f{int(row['Metadata_Site']):02}p01"
        folder = LINCS / "images" / row["Metadata_Plate"]
        files = [folder / f"{stem}-ch{k}sk1fk1fl1.png" for k in range(1, 6)]
        x = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])).double()[None]
        x = F.interpolate(x, (64, 64), mode="bilinear", align_corners=False, antialias=True)
        x = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True)
        with torch.no_grad():
            p = model.method.predict(x.float()).softmax(1)[0]
        order = p.argsort(descending=True)[:5].tolist()
        ends = ("", "_2", "_3", "_4", "_5")
        assert [row[f"Predicted{e}"] for e in ends] == [model.classes[k] for k in order]
        np.testing.assert_allclose([row[f"Probability{e}"] for e in ends], p[order], atol=2e-4)
    own = sites.groupby(["Metadata_Plate", "Metadata_Well"], sort=False).size()
    assert own.index.tolist() == list(zip(wells["Metadata_Plate"], wells["Metadata_Well"], strict=True))
    assert own.tolist() == wells["Metadata_Site_Count"].tolist()
