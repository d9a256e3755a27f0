"""`abra-wilds audit` and `embed --metrics` of models that were trained on a screen of one's own."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from abra_wilds import fit, run_config
from abra_wilds.__main__ import main
from abra_wilds.analysis.metrics.baselines import CHANNELS, POSITION, UNTRAINED
from tests import runs
from tests.data.own.own_tables import BATCHES, small_rows, write_screen

OWN = {"dataset": "screen", "root_dir": None, "label_column": "Metadata_Drug", "batch_size": 6, "n_epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of ERM on a screen whose test is two of four batches; plates and sites have names."""
    folder, rows = tmp_path_factory.mktemp("own"), small_rows()
    rows["Metadata_control_type"] = np.where(rows["Metadata_Drug"] == "DMSO", "negcon", "trt")
    rows["Metadata_Target"] = rows["Metadata_Drug"].map(
        {"DMSO": "", "taxol": "tubulin", "nocodazole": "tubulin"}
    )
    rows["Metadata_Split"] = np.where(rows["Metadata_Batch"].isin(BATCHES[:2]), "train", "test")
    # One cell of a well was given another class than the other, as where each is labelled by itself.
    first = (rows["Metadata_Plate"] == f"{BATCHES[2]}_000") & (rows["Metadata_Well"] == "A02")
    rows.loc[first & (rows["Metadata_Site"] == "2"), "Metadata_Drug"] = "nocodazole"
    flags = {**OWN, "screen": str(write_screen(folder / "screen", rows, size=32))}
    with pytest.MonkeyPatch.context() as patch:
        runs.use_tiny_backbone(patch)
        fit(run_config("ERM", **runs.settings(None, folder / "run", "ERM", **flags)))
        yield next((folder / "run").glob("*epoch:last_model.pth"))


def test_an_audit_of_ones_own_screen_asks_its_treatment_wells(trained, tmp_path):
    assert main(["audit", str(trained), "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    found = {v["shortcut"]: v for v in content["verdicts"]}
    # Two treatments on each of four plates, and the cell of another class, which makes a ninth well.
    assert content["dataset"] == "screen" and content["wells"] == 9 and not content["simulated"]
    assert found["position"]["accuracy"] == pytest.approx(8 / 9), "every drug is always in its own well"
    assert not found["plate"]["found"] and found["plate"]["p"] == 1, "names of plates mean nothing elsewhere"


def test_metrics_of_ones_own_screen_are_beside_what_no_training_gives(trained, tmp_path):
    pytest.importorskip("copairs", reason="the extra hcs is not installed")
    words = [
        "--metrics",
        "--annotation",
        "Metadata_Target",
        "--split",
        "train",
        "test",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["embed", str(trained), *words]) == 0
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(content["metrics"][0]["chance"]) == ["model", UNTRAINED, CHANNELS, POSITION]
    site, well = (pd.read_parquet(tmp_path / "out" / f"{level}.parquet") for level in ("site", "well"))
    assert set(site["Metadata_Plate"]) == {f"{b}_00{p}" for b in BATCHES for p in (0, 1)}
    assert set(site["Metadata_Site"]) == {"1", "2"} and set(site["Metadata_control_type"]) == {
        "negcon",
        "trt",
    }
    pd.testing.assert_series_equal(
        site["Metadata_Label"] == "DMSO", site["Metadata_control_type"] == "negcon", check_names=False
    )
    assert len(well) == 25 and sorted(well["Metadata_Site_Count"].unique()) == [1, 2]
    assert set(site["Metadata_Target"]) == {"", "tubulin"}


def test_an_annotation_that_is_no_column_is_refused_with_those_that_are(trained, tmp_path, capsys):
    assert (
        main(["embed", str(trained), "--metrics", "--annotation", "gene", "--out", str(tmp_path / "out")])
        == 2
    )
    runs.assert_says(capsys.readouterr().err, "--annotation gene", "load_data.csv", "Metadata_Target")
