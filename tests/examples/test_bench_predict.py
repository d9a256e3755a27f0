"""The benchmark of prediction writes a plate and a model that fit each other, and measures every site."""

import argparse

import pandas as pd
import pytest
import tifffile

from abra_wilds import load_model
from tests import runs

EXAMPLES = runs.REPOSITORY / "examples" / "benchmarks"
SMALL = ["--wells", "3", "--sites", "2", "--channels", "2", "--side", "48", "--size", "32", "--classes", "4"]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return pytest.importorskip("bench_predict")


def arguments(bench, *words) -> argparse.Namespace:
    return bench.make_arguments().parse_args([*SMALL, *words])


@pytest.mark.parametrize("depth", ["8", "16"])
def test_the_plate_has_a_file_a_channel_and_the_model_its_names(bench, tmp_path, depth):
    args = arguments(bench, "--depth", depth)
    table = pd.read_csv(bench.write_plate(tmp_path / "plate", args), dtype=str)
    assert table["Metadata_Well"].tolist() == ["A01", "A01", "A02", "A02", "A03", "A03"]
    files = sorted(path.name for path in (tmp_path / "plate" / "images").iterdir())
    assert files == sorted([*table["FileName_OrigDNA"], *table["FileName_OrigRNA"]]) and len(files) == 12
    if depth == "16":
        assert tifffile.imread(tmp_path / "plate" / "images" / files[0]).max() > 255
    bench.write_model(tmp_path / "model", args)
    model = load_model(tmp_path / "model", "cpu")
    assert model.channels == ["DNA", "RNA"] and len(model.classes) == 4
    assert model.config.data.size == (32, 32)


@pytest.mark.slow
def test_every_site_is_predicted_and_timed(bench, tmp_path):
    found = bench.bench(tmp_path, arguments(bench, "--tta", "none"))
    (row,) = found["predict"].values()
    assert row["sites"] == 6 and min(row["seconds"], row["core_seconds"]) > 0
    assert row["sites_per_second"] == pytest.approx(6 / row["seconds"])
