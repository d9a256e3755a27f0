"""Acceptance 9: bad data, folders and weights are one sentence, exit code 2, and leave no file."""

import json
import re
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


METADATA = {
    "missing column": (
        drop("sirna_id"),
        ("metadata.csv lacks the columns sirna_id", "it must have cell_type"),
    ),
    "renamed column": (
        lambda rows: rows.rename(columns={"experiment": "Experiments"}),
        ("lacks the columns experiment", "it must have"),
    ),
    "label that is no number": (
        put("sirna_id", "s7"),
        ("sirna_id", "must be an integer", "line ", "'s7'", "1 of 256", "correct"),
    ),
    "negative label": (put("sirna_id", -1), ("sirna_id", "an integer of at least 0", "'-1'", "correct them")),
    "label with a gap": (
        put("sirna_id", 12),
        ("must run from 0 to 12 without gaps", "9, 10, 11", "number the classes"),
    ),
    "one class only": (
        put("sirna_id", 0, lambda rows: rows.index >= 0),
        ("has sirna_id 0", "two classes are needed"),
    ),
    "split that does not exist": (
        put("dataset", "valid"),
        ("must be one of train, val, test", "'valid'", "correct"),
    ),
    "plate counted from 0": (put("plate", 0), ("plate", "an integer of at least 1", "'0'", "correct them")),
    "no row": (lambda rows: rows.iloc[:0], ("has a header and no rows", "restore the file")),
    "image listed twice": (
        lambda rows: rows.iloc[[0, *range(len(rows))]],
        ("more than once", "keep one row an image"),
    ),
    "no val split": (
        lambda rows: rows[rows["dataset"] != "val"],
        ("split 'val' has no image",),
    ),
    "no image file": (put("well", "Z99"), ("1 of 256 images are missing", "Z99", "restore")),
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
        ("rxrx1_v1.0", ("there is no data set in", "rxrx1_v1.0", "abra-wilds fetch", "abra-wilds simulate")),
        ("rxrx1_v1.0/metadata.csv", ("holds no metadata.csv", "abra-wilds simulate")),
        (
            "rxrx1_v1.0/RELEASE_v1.0.txt",
            ("holds no RELEASE_v1.0.txt", "complete data set", "abra-wilds simulate"),
        ),
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
    assert_says(said, f"there is no data set in {tmp_path / 'elsewhere' / 'rxrx1_v1.0'}")


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


@pytest.mark.parametrize("keep", [0, 100, 1500])
def test_a_truncated_png_fails_with_its_path(copied, capsys, tmp_path, keep):
    """Whichever split it is in: WILDS would load it with its lower rows black."""
    path = copied / "rxrx1_v1.0" / "images" / "HUVEC-04" / "Plate2" / "B05_s1.png"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:keep])
    assert main(runs.command(copied, tmp_path / "run", "ERM", n_epochs=1)) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        rf"error: {re.escape(str(path))} cannot be read \(.+\); restore this image\n", error
    ), error
    assert not list((tmp_path / "run").glob("*.pth"))


def test_a_truncated_png_fails_in_worker_processes_too(copied, capsys, tmp_path):
    path = copied / "rxrx1_v1.0" / "images" / "HEPG2-01" / "Plate1" / "B05_s1.png"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:1000])
    argv = runs.command(copied, tmp_path / "run", "ABRA", loader_kwargs={"num_workers": 2})
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path} cannot be read") and error.count("\n") == 1


def test_images_of_two_sizes_are_named(copied, capsys, tmp_path):
    path = copied / "rxrx1_v1.0" / "images" / "HEPG2-01" / "Plate1" / "B05_s1.png"
    path.unlink()
    runs.write_png(path, side=16)
    assert main(runs.command(copied, tmp_path / "run", "ERM")) == 2
    assert_says(capsys.readouterr().err, "B05_s1.png", "has shape (3, 16, 16)", "(3, 32, 32)", "alike")


def test_a_log_folder_that_cannot_be_written(root, refused, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(runs.command(root, tmp_path / "file" / "run", "ERM"))
    assert_says(said, f"--log_dir {tmp_path / 'file' / 'run'} cannot be written", "give another folder")


@pytest.mark.parametrize("more", [[], ["--resume", "false"]])
def test_a_log_folder_that_is_not_empty(root, refused, tmp_path, more):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("of another run")
    said = refused([*runs.command(root, tmp_path / "run", "ERM"), *more], written=["log.txt"])
    assert_says(said, "--log_dir", "is not empty", "--resume", "--overwrite", "another folder")
    assert (tmp_path / "run" / "log.txt").read_text() == "of another run"


def test_overwrite_refuses_to_empty_a_folder_that_is_not_a_runs(root, refused, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("log.txt", "thesis.txt"):
        (tmp_path / "run" / name).write_text("keep")
    said = refused(
        [*runs.command(root, tmp_path / "run", "ERM"), "--overwrite"], written=["log.txt", "thesis.txt"]
    )
    assert_says(said, "--overwrite", "also holds thesis.txt", "give another folder")


def test_weights_that_cannot_be_had(root, refused, tmp_path, monkeypatch):
    """Without network and with an empty cache of torch hub."""
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    said = refused(runs.command(root, tmp_path / "run", "ERM", pretrained=None), printed="Downloading: .*\n")
    assert_says(said, "ImageNet weights of resnet18 could not be loaded", "connect", "--pretrained false")
    assert not (tmp_path / "run").exists()


def offline(*args, **kwargs):
    from urllib.error import URLError

    raise URLError("Temporary failure in name resolution")


def test_weights_of_another_model(root, refused, tmp_path):
    torch.save({"algorithm": {"net.other": torch.zeros(1)}}, tmp_path / "w.pth")
    flags = {"pretrained": None, "pretrained_model_path": tmp_path / "w.pth"}
    said = refused(runs.command(root, tmp_path / "run", "ERM", **flags))
    assert_says(said, "w.pth lacks", "weights of this model", "--model")


def test_a_tracker_that_is_not_installed(root, refused, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    said = refused(runs.command(root, tmp_path / "run", "ERM", tracker="tensorboard"))
    assert_says(said, "--tracker tensorboard needs the package tensorboard", "pip install tensorboard")


def test_a_config_json_that_is_damaged(root, capsys, tmp_path):
    argv = runs.command(root, tmp_path / "run", "ERM")
    assert main(argv) == 0
    (tmp_path / "run" / "config.json").write_text(json.dumps({})[:-1])
    capsys.readouterr()
    assert main([*argv, "--resume"]) == 2
    assert_says(capsys.readouterr().err, "config.json is not JSON", "restore it", "--overwrite")


def test_every_refusal_leaves_the_working_directory_alone():
    assert not (Path.cwd() / "logs").exists()
