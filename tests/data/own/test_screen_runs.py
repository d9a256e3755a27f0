"""Screens through the commands: training, packs, validation and sweeps, and what is refused before."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from abra_wilds import __main__, fit, run_config
from abra_wilds.board.sweep.plan import plan
from abra_wilds.board.sweep.spec import read_spec
from abra_wilds.commands import train
from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.reading.pack import from_files
from abra_wilds.data.screens import dataset as screens
from abra_wilds.data.screens.screen import Screen
from abra_wilds.engine.setup import prepare
from abra_wilds.errors import InputError
from abra_wilds.nets.backbones import timm_package
from tests import runs
from tests.data.own.own_tables import BATCHES, SHARED, small_rows, write_screen

FLAGS_OF_SCREEN = {"label_column": "Metadata_Drug", "split": ["test=0.25", "val=0.25"]}
FLAGS = {**FLAGS_OF_SCREEN, "target_resolution": 32}


@pytest.fixture
def tiny(monkeypatch):
    runs.use_tiny_backbone(monkeypatch)


@pytest.fixture
def table(tmp_path):
    return write_screen(tmp_path / "screen", size=32)


def settings(table, folder, algorithm="ERM", **changes):
    own = {"dataset": None, "root_dir": None, "screen": str(table), **FLAGS, "batch_size": 6}
    return runs.settings(table, folder, algorithm, **{**own, **changes})


def test_erm_and_abra_train_on_a_table_and_leave_names_in_their_folder(tiny, table, tmp_path):
    for algorithm in ("ERM", "ABRA"):
        records = fit(run_config(algorithm, **settings(table, tmp_path / algorithm, algorithm, n_epochs=1)))
        assert {record.split for record in records} == {"val", "test"} and records[0].dataset == "screen"
        content = json.loads((tmp_path / algorithm / "config.json").read_text())
        assert content["data"]["classes"] == ["DMSO", "nocodazole", "taxol"]
        assert content["data"]["channels"] == ["DNA", "ER"]
        assert (
            len((tmp_path / algorithm / "screen_split:test_seed:0_epoch:last_pred.csv").read_text().split())
            == 12
        )
        header = (tmp_path / algorithm / "val_algo.csv").read_text().splitlines()[0]
        assert "group" in header


def test_one_command_trains_adapts_and_predicts_again(tiny, table, tmp_path, capsys):
    flags = {"tta": "plate_bn", "tta_min": 2, "n_epochs": 1}
    argv = runs.command(
        table,
        tmp_path / "run",
        "ERM",
        **{"dataset": None, "root_dir": None, "screen": str(table), **FLAGS, **flags},
    )
    assert train.main(argv) == 0
    checkpoint = next((tmp_path / "run").glob("*best_model.pth"))
    log, dataset = (tmp_path / "run" / "log.txt").read_text(), Screen.open(table, **FLAGS_OF_SCREEN).dataset()
    for split in ("val", "test"):
        (number,) = set(dataset.metadata_array[dataset.split_array == dataset.split_dict[split], 1].tolist())
        assert f"experiments of {split}: {dataset._metadata_map['experiment'][number]}\n" in log
    assert "experiments of train" not in log and "  batch_size: " in log and "(default)" not in log
    assert "Accuracy in percent on screen" in capsys.readouterr().out
    assert __main__.main(["predict", str(checkpoint), "--tta", "none", "--device", "cpu"]) == 0


def test_a_pack_of_a_screen_is_read_instead_of_its_files(table, capsys):
    assert __main__.main(["pack", str(table), "--workers", "1"]) == 0
    assert __main__.main(["validate", str(table), "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert (
        "nothing is wrong" in shown and "channels: DNA, ER" in shown and "48 images of (2, 32, 32)" in shown
    )
    config = run_config("ERM", **settings(table, "x")).screen
    packed = load_dataset("screen", "", screen=config)
    assert (
        packed.pack is not None
        and sorted(packed.pack.files, key=str)[0]["name"] == "2020_a_plate2020_a_000.npy"
    )
    files = from_files("screen", table)
    for row in (0, 20, 47):
        assert torch.equal(packed.pack.read(str(packed._input_array[row])), files.get_input(row))
    # Other channels are not those of the pack.
    with pytest.warns(UserWarning, match="--channels"):
        assert (
            load_dataset(
                "screen", "", screen=run_config("ERM", **settings(table, "x", channels=["DNA"])).screen
            ).pack
            is None
        )


def test_validate_finds_the_images_of_a_screen_that_training_and_test_share(table, tmp_path, capsys):
    images = tmp_path / "screen" / "images"
    for name in ("DNA", "ER"):
        one = images / f"{BATCHES[0]}_000" / f"A01_s1_{name}.png"
        (images / f"{BATCHES[3]}_001" / f"B01_s2_{name}.png").write_bytes(one.read_bytes())
    rows = small_rows()
    rows["Metadata_Split"] = np.where(rows["Metadata_Batch"] == BATCHES[0], "train", "test")
    rows.to_csv(table, index=False)
    assert __main__.main(["validate", str(table), "--workers", "1", "--label_column", "Metadata_Drug"]) == 1
    assert "B01_s2_DNA.png of test has the pixels of" in capsys.readouterr().out


def refusal(table, **changes):
    with pytest.raises(InputError) as caught:
        prepare(run_config("ERM", **settings(table, "nowhere", **changes)))
    return str(caught.value)


def test_images_that_are_not_there_are_named_with_line_and_channel_before_training(tiny, table, tmp_path):
    (tmp_path / "screen" / "images" / f"{BATCHES[1]}_001" / "A02_s2_ER.png").unlink()
    said = refusal(table)
    assert "1 of 96 images are missing" in said and "--image_root OLD=NEW" in said
    assert re.search(r"channel ER in line 23 of \S+load_data.csv", said)


def test_a_channel_of_another_size_or_depth_is_named(tiny, table, tmp_path):
    path = tmp_path / "screen" / "images" / f"{BATCHES[0]}_000" / "A01_s1_ER.png"
    kept = path.read_bytes()
    for other in (np.zeros((16, 32), np.uint8), np.zeros((32, 32), np.uint16)):
        Image.fromarray(other).save(path)
        with pytest.raises(InputError, match="A01_s1_ER") as caught:
            from_files("screen", table).get_input(0)
        assert "alike" in str(caught.value)
    path.write_bytes(kept)


@pytest.mark.parametrize("other", [np.zeros((16, 16), np.uint8), np.zeros((32, 32), np.uint16)])
def test_a_plate_of_another_size_or_depth_is_refused_before_training(tiny, table, tmp_path, other):
    """One site of each plate is read before anything is written."""
    for channel in ("DNA", "ER"):
        path = tmp_path / "screen" / "images" / f"{BATCHES[2]}_001" / f"A01_s1_{channel}.png"
        Image.fromarray(other).save(path)
    said = refusal(table)
    assert f"{BATCHES[2]}_001" in said and "must have one" in said


def test_one_site_of_each_plate_is_looked_at_and_of_many_plates_some(table, monkeypatch):
    opened = load_dataset("screen", "", screen=run_config("ERM", **settings(table, "x")).screen)
    assert opened.one_a_plate(range(48)) == list(range(0, 48, 6))
    assert opened.one_a_plate([13, 14, 3]) == [13, 3]
    monkeypatch.setattr(screens, "MOST_PLATES", 4)
    assert opened.one_a_plate(range(48)) == [0, 12, 24, 36]


def test_a_sweep_goes_over_bio_batches_that_are_left_out(table, tmp_path):
    spec = tmp_path / "spec.yaml"
    shared = f"screen: {table}, label_column: Metadata_Drug, n_epochs: 1, model: resnet18, pretrained: false"
    rows = [
        f"  - {{label: '{b}', algorithm: ERM, settings: {{split: [leave_one_out={b}, val=0.25]}}}}"
        for b in BATCHES
    ]
    spec.write_text("\n".join(["seeds: [0]", f"settings: {{{shared}}}", "rows:", *rows]))
    planned = plan(read_spec(spec), tmp_path / "out")
    assert [run.splits for run in planned] == [("val", "test")] * 4
    assert [run.config.screen.division.leave_one_out for run in planned] == list(BATCHES)
    assert len({run.config.digest() for run in planned}) == 4 and {run.checkpoint for run in planned} == {
        "best"
    }


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/real is not here")
@pytest.mark.parametrize("algorithm", ["ERM", "ABRA"])
def test_mitocheck_trains_by_one_command_with_dates_as_bio_batches(algorithm, tmp_path):
    timm_package()
    table = SHARED / "mitocheck" / "load_data.csv"
    before = {path: path.stat().st_mtime_ns for path in table.parent.iterdir()}
    words = (
        f"--algorithm {algorithm} --screen {table} --label_column Metadata_Phenotype --least_per_class 50 "
        "--split test=0.2 val=0.1 --keep_together Metadata_Frame --model timm:test_resnet --pretrained false "
        f"--n_epochs 1 --batch_size 64 --device cpu --loader_kwargs num_workers=0 "
        f"--log_dir {tmp_path / 'run'}"
    )
    assert train.main(words.split()) == 0
    assert {path: path.stat().st_mtime_ns for path in table.parent.iterdir()} == before
    results = pd.read_json(tmp_path / "run" / "results.jsonl", lines=True)
    assert set(results["split"]) == {"val", "test"} and set(results["dataset"]) == {"screen"}
