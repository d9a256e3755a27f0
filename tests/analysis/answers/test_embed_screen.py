"""`abra-wilds embed MODEL --screen NEW`: profiles as pycytominer and scanpy read them; nearest classes."""

import json

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch

from abra_wilds import load_model
from abra_wilds.__main__ import main
from abra_wilds.analysis.postprocess import postprocessed
from tests import runs
from tests.analysis.answers import made

pytestmark = pytest.mark.usefixtures("tiny")


def line(model, screen, out, *words):
    more = ["--device", "cpu", "--loader_kwargs", "num_workers=0"]
    return ["embed", str(model), "--screen", str(screen), "--out", str(out), *more, *map(str, words)]


def features_in(table):
    return table[[name for name in table if name.startswith("Cells_embedding_")]].to_numpy()


def test_profiles_are_what_the_classifier_reads_of_each_site_and_their_mean_by_well(trained, fresh, tmp_path):
    folder, rows = fresh
    out = tmp_path / "out"
    assert main(line(trained / "model", folder, out, "--h5ad")) == 0
    model = load_model(trained / "model", "cpu")
    with torch.no_grad():
        wanted = model.method.embed(made.standardised(folder, rows)).numpy()
    site, well = (pd.read_parquet(out / f"{level}.parquet") for level in ("site", "well"))
    np.testing.assert_allclose(features_in(site), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features_in(well), (wanted[0::2] + wanted[1::2]) / 2, rtol=1e-4, atol=1e-5)
    assert site["Metadata_Plate"].tolist() == rows["Metadata_Plate"].tolist()
    about = json.loads(pyarrow.parquet.read_schema(out / "site.parquet").metadata[b"abra_wilds"])
    assert about["model"]["name"] == model.about["checkpoint"]["name"] and about["level"] == "site"
    for level, table in (("site", site), ("well", well)):
        read = anndata.read_h5ad(out / f"{level}.h5ad")
        np.testing.assert_array_equal(read.X, features_in(table))
        assert read.obs["Metadata_Well"].tolist() == table["Metadata_Well"].tolist()
        assert read.var_names[0] == "Cells_embedding_0000" and "model" in json.loads(read.uns["abra_wilds"])


def test_each_well_has_its_nearest_known_treatments(trained, fresh, tmp_path):
    folder, rows = fresh
    assert main(line(trained / "model", folder, tmp_path / "out", "--tta", "plate_bn", "--tta_min", 4)) == 0
    nearest = pd.read_parquet(tmp_path / "out" / "nearest.parquet")
    well = pd.read_parquet(tmp_path / "out" / "well.parquet")
    model = load_model(trained / "model", "cpu")
    c, f = model.centroids.numpy(), features_in(well)
    c, f = c - c.mean(0), f - c.mean(0)
    cosines = (f @ c.T) / np.linalg.norm(f, axis=1)[:, None] / np.linalg.norm(c, axis=1)
    assert nearest["Nearest"].tolist() == [model.classes[k] for k in cosines.argmax(1)]
    np.testing.assert_allclose(nearest["Cosine"], cosines.max(1), rtol=1e-4)
    assert nearest["Metadata_Well"].tolist() == rows["Metadata_Well"][::2].tolist()


def test_bio_batches_are_aligned_on_the_controls_of_the_screen(trained, tmp_path):
    wells = {f"A{k:02}": "DMSO" for k in range(1, 9)} | {f"B{k:02}": "taxol" for k in range(1, 5)}
    rows = made.rows_of(["nx1", "ny1"], wells=wells)
    made.write(tmp_path / "screen", rows, seed=4)
    made.stain(tmp_path / "screen", "ny1")
    plain, aligned = tmp_path / "plain", tmp_path / "aligned"
    assert main(line(trained / "model", tmp_path / "screen", plain)) == 0
    assert main(line(trained / "model", tmp_path / "screen", aligned, "--postprocess", "centerscale")) == 0
    before, after = (pd.read_parquet(out / "site.parquet") for out in (plain, aligned))
    batch = rows["Metadata_Batch"].to_numpy(dtype=object)
    is_control = (rows["Metadata_control_type"] == "negcon").to_numpy()
    wanted = postprocessed("centerscale", features_in(before), batch, is_control)
    np.testing.assert_allclose(features_in(after), wanted, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_embedded_is_a_sentence(trained, fresh, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    argv = line(trained / "model", fresh[0], out, "--tta", "lame")
    assert "lame learns or corrects predictions" in runs.sentence(capsys, main, argv)
    argv = line(trained / "model", fresh[0], out, "--metrics")
    assert "--metrics would have no effect with --screen" in runs.sentence(capsys, main, argv)
    monkeypatch.setitem(__import__("sys").modules, "anndata", None)
    argv = line(trained / "model", fresh[0], out, "--h5ad")
    assert "pip install 'abra-wilds[h5ad]'" in runs.sentence(capsys, main, argv)
    assert not out.exists()
