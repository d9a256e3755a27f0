"""Acceptance 9: bad data, folders and weights are one sentence, exit code 2, and leave no file."""

import json
from pathlib import Path

import pytest
import torch

from abra_wilds.commands.train import main
from tests import runs
from tests.runs import assert_says


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    runs.use_tiny_backbone(monkeypatch)


def drop(column):
    return lambda rows: rows.drop(columns=column)


def put(column, value, where=lambda rows: rows.index == rows.index[3]):
    def change(rows):
        rows = rows.astype({column: object})
        rows.loc[where(rows), column] = value
        return rows

    return change


# what is wrong -> (change of the table, what is named)
METADATA = {
    "missing column": (drop("sirna_id"), ("metadata.csv", "sirna_id", "cell_type")),
    "renamed column": (lambda rows: rows.rename(columns={"experiment": "Experiments"}), ("experiment",)),
    "label that is no number": (put("sirna_id", "s7"), ("sirna_id", "line ", "'s7'", "1 of 256")),
    "negative label": (put("sirna_id", -1), ("sirna_id", "at least 0", "'-1'")),
    "label with a gap": (put("sirna_id", 12), ("0 to 12", "9, 10, 11")),
    "one class only": (put("sirna_id", 0, lambda rows: rows.index >= 0), ("sirna_id 0", "two classes")),
    "split that does not exist": (put("dataset", "valid"), ("train, val, test", "'valid'")),
    "plate counted from 0": (put("plate", 0), ("plate", "at least 1", "'0'")),
    "no row": (lambda rows: rows.iloc[:0], ("metadata.csv", "no rows")),
    "image listed twice": (lambda rows: rows.iloc[[0, *range(len(rows))]], ("more than once",)),
    "no val split": (lambda rows: rows[rows["dataset"] != "val"], ("'val'",)),
    "no image file": (put("well", "Z99"), ("1 of 256 images", "Z99")),
}


@pytest.mark.parametrize("change", METADATA)
def test_a_bad_metadata_csv(sim_root, refused, tmp_path, change):
    edit, parts = METADATA[change]
    bad = runs.small_root(sim_root, tmp_path / "bad", edit)
    assert_says(refused(runs.command(bad, tmp_path / "run", "ERM")), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("remove", "parts"),
    [
        ("rxrx1_v1.0", ("rxrx1_v1.0", "abra-wilds fetch", "abra-wilds simulate")),
        ("rxrx1_v1.0/metadata.csv", ("metadata.csv", "abra-wilds simulate")),
        ("rxrx1_v1.0/RELEASE_v1.0.txt", ("RELEASE_v1.0.txt", "abra-wilds simulate")),
    ],
)
def test_a_data_set_that_is_missing(sim_root, refused, tmp_path, remove, parts):
    bad = runs.small_root(sim_root, tmp_path / "bad")
    path = bad / remove
    path.rename(tmp_path / "removed")
    before = sorted(p.name for p in bad.rglob("*"))
    assert_says(refused(runs.command(bad, tmp_path / "run", "ERM")), *parts)
    assert sorted(p.name for p in bad.rglob("*")) == before


def test_wilds_data_is_where_the_data_is_looked_for(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("WILDS_DATA", str(tmp_path / "elsewhere"))
    said = refused(runs.command(tmp_path, tmp_path / "run", "ERM", root_dir=None))
    assert_says(said, str(tmp_path / "elsewhere" / "rxrx1_v1.0"))


@pytest.fixture
def copied(sim_root, tmp_path):
    """A data set whose images may be damaged: folders of links, one file of which is replaced."""
    root = runs.small_root(sim_root, tmp_path / "copied")
    images = root / "rxrx1_v1.0" / "images"
    real = images.resolve()
    images.unlink()
    for path in real.glob("*/Plate[12]/*.png"):
        link = images / path.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return root


@pytest.mark.parametrize(
    ("experiment", "keep", "workers"),
    [("HUVEC-04", 0, 0), ("HUVEC-04", 100, 0), ("HUVEC-04", 1500, 0), ("HEPG2-01", 1000, 2)],
)
def test_a_truncated_png_fails_with_its_path(copied, capsys, tmp_path, experiment, keep, workers):
    """Whichever split it is in, in worker processes too: WILDS would load it with its lower rows black."""
    path = copied / "rxrx1_v1.0" / "images" / experiment / "Plate2" / "B05_s1.png"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:keep])
    more = {"n_epochs": 1, "loader_kwargs": {"num_workers": workers}}
    said = runs.sentence(capsys, main, runs.command(copied, tmp_path / "run", "ERM", **more))
    assert said.startswith(str(path))
    assert not list((tmp_path / "run").glob("*.pth"))


def test_images_of_two_sizes_are_named(copied, capsys, tmp_path):
    path = copied / "rxrx1_v1.0" / "images" / "HEPG2-01" / "Plate1" / "B05_s1.png"
    path.unlink()
    runs.write_png(path, side=16)
    said = runs.sentence(capsys, main, runs.command(copied, tmp_path / "run", "ERM"))
    assert_says(said, "B05_s1.png", "(3, 16, 16)", "(3, 32, 32)")


def test_a_log_folder_that_cannot_be_written(root, refused, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(runs.command(root, tmp_path / "file" / "run", "ERM"))
    assert f"--log_dir {tmp_path / 'file' / 'run'} " in said


@pytest.mark.parametrize("more", [[], ["--resume", "false"]])
def test_a_log_folder_that_is_not_empty(root, refused, tmp_path, more):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("of another run")
    said = refused([*runs.command(root, tmp_path / "run", "ERM"), *more], written=["log.txt"])
    assert_says(said, "--log_dir", "--resume", "--overwrite")
    assert (tmp_path / "run" / "log.txt").read_text() == "of another run"


def test_overwrite_refuses_to_empty_a_folder_that_is_not_a_runs(root, refused, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("log.txt", "thesis.txt"):
        (tmp_path / "run" / name).write_text("keep")
    argv = [*runs.command(root, tmp_path / "run", "ERM"), "--overwrite"]
    assert_says(refused(argv, written=["log.txt", "thesis.txt"]), "--overwrite", "thesis.txt")


def test_weights_that_cannot_be_had(root, refused, tmp_path, monkeypatch):
    """Without network and with an empty cache of torch hub."""
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    said = refused(runs.command(root, tmp_path / "run", "ERM", pretrained=None), printed="Downloading: .*\n")
    assert_says(said, "resnet18", "--pretrained false")
    assert not (tmp_path / "run").exists()


def offline(*args, **kwargs):
    from urllib.error import URLError

    raise URLError("Temporary failure in name resolution")


def test_weights_of_another_model(root, refused, tmp_path):
    torch.save({"algorithm": {"net.other": torch.zeros(1)}}, tmp_path / "w.pth")
    flags = {"pretrained": None, "pretrained_model_path": tmp_path / "w.pth"}
    said = refused(runs.command(root, tmp_path / "run", "ERM", **flags))
    assert_says(said, "w.pth", "--model")


def test_a_tracker_that_is_not_installed(root, refused, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    said = refused(runs.command(root, tmp_path / "run", "ERM", tracker="tensorboard"))
    assert_says(said, "--tracker tensorboard", "pip install 'abra-wilds[track]'")


def test_a_config_json_that_is_damaged(root, capsys, tmp_path):
    argv = runs.command(root, tmp_path / "run", "ERM")
    assert main(argv) == 0
    (tmp_path / "run" / "config.json").write_text(json.dumps({})[:-1])
    assert_says(runs.sentence(capsys, main, [*argv, "--resume"]), "config.json", "--overwrite")


def test_every_refusal_leaves_the_working_directory_alone():
    assert not (Path.cwd() / "logs").exists()
