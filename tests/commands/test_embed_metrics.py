"""`abra-wilds embed --metrics`: the table of the model beside what no training gives."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

from abra_wilds.analysis import profiles
from abra_wilds.analysis.embed import embeddings
from abra_wilds.analysis.held_out import held_out
from abra_wilds.analysis.metrics.baselines import CHANNELS, POSITION, UNTRAINED
from abra_wilds.analysis.metrics.cells import cell
from abra_wilds.analysis.metrics.table import reviewed
from abra_wilds.analysis.metrics.written import MODEL as MODEL_ROW
from abra_wilds.analysis.postprocess import postprocessed
from abra_wilds.analysis.profiles import TREATED_WELL
from tests.commands.test_embed import MODEL, PLATES, command, trained, values

__all__ = ["trained"]


@pytest.fixture
def both_packages():
    """What metrics are computed by."""
    pytest.importorskip("copairs", reason="the extra hcs is not installed")
    pytest.importorskip("scib_metrics", reason="the extra scib is not installed")


def test_post_processing_is_fitted_to_sites_and_metrics_compare_what_no_training_gives(
    both_packages, run_folder, capsys
):
    flags = ("--postprocess", "tvn", "--metrics", "--level", "well", "--split", "val", "test")
    assert command(run_folder, *flags, "--tta", "plate_bn", "--tta_min", "10") == 0
    shown, folder = capsys.readouterr().out, run_folder / "embed_best_plate_bn_min10_tvn"
    assert {p.name for p in folder.iterdir()} == {"well.parquet", "metrics.json"}
    plain = embeddings(run_folder / MODEL, ["val", "test"], PLATES)
    batch = plain.table["Metadata_Batch"].to_numpy(dtype=object)
    is_control = (plain.table["Metadata_control_type"] != "trt").to_numpy()
    sites = postprocessed("tvn", plain.features, batch, is_control)
    well, _ = profiles.wells_of(plain.table)
    found = values(pd.read_parquet(folder / "well.parquet"))
    np.testing.assert_allclose(found, profiles.well_means(sites, well), atol=1e-6)
    content = json.loads((folder / "metrics.json").read_text())
    assert {content[k] for k in ("tta", "postprocess", "level")} == {"plate_bn_min10", "tvn", "well"}
    held = held_out("tvn", plain.features, batch, is_control, profiles.wells_of(plain.table, TREATED_WELL)[0])
    assert content["held_out_controls"] == asdict(held) and f"tvn: {held}" in shown
    plain_rows = [MODEL_ROW, UNTRAINED, CHANNELS, POSITION]
    rows = plain_rows + [f"{name}, tvn" for name in plain_rows[:3]]
    for entry in content["metrics"]:
        assert set(entry["by_cell_line"]) <= {"HEPG2", "HUVEC"} and list(entry["chance"]) == rows
    for name in rows:
        (line,) = [line for line in shown.splitlines() if line.startswith(name + "  ")]
        assert all(cell(e[name], e["interval"][name]) in line for e in content["metrics"])
    means = profiles.well_means(plain.features, profiles.wells_of(plain.table, TREATED_WELL)[0])
    wells = profiles.wells_of(plain.table, TREATED_WELL)[1]
    ours = {e["metric"]: e["model"] for e in reviewed({"model": means}, wells)}
    assert {e["metric"]: e["model"] for e in content["metrics"]} == pytest.approx(ours, abs=1e-5)


def test_metrics_count_a_well_once_whatever_splits_its_sites_are_in(both_packages, run_folder, capsys):
    flags = ("--metrics", "all", "--split", "train", "id_test", "--level", "site")
    assert command(run_folder, *flags, "--annotation", "sirna") == 0
    folder = run_folder / "embed_best_none"
    site = pd.read_parquet(folder / "site.parquet").query("Metadata_control_type == 'trt'")
    assert site["Metadata_sirna"].tolist() == [f"s{y}" for y in site["Metadata_sirna_id"]]
    content = json.loads((folder / "metrics.json").read_text())
    for line, rows in site.groupby("Metadata_Cell_Line"):
        treated = rows.groupby(["Metadata_Plate", "Metadata_Well"])
        assert set(treated["Metadata_split"].nunique()) == {2}
        for entry in content["metrics"]:
            assert entry["by_cell_line"][line]["wells"] == treated.ngroups
        f = rows.filter(like="Cells_").groupby([rows["Metadata_Plate"], rows["Metadata_Well"]]).mean()
        d = np.linalg.norm(f.to_numpy()[:, None] - f.to_numpy(), axis=2)
        names = treated["Metadata_Batch"].first()
        (silhouette,) = [e for e in content["metrics"] if e["metric"] == "silhouette by experiment"]
        expected = silhouette_score(d, names, metric="precomputed")
        assert silhouette["by_cell_line"][line]["model"] == pytest.approx(expected, abs=1e-5)
    assert "a well is one row, with its sites of all splits" in capsys.readouterr().out
