"""Folders that may not be written, files that may not be read: a sentence; the right helps."""

import shutil
import sys

import pytest

from abra_wilds.__main__ import main as tools
from abra_wilds.commands.train import main
from tests import disks, runs
from tests.data.screens import own_screen
from tests.engine.conftest import tiny

__all__ = ["tiny"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="root is bound by rights as Linux binds it")
MODEL, LAST = (f"rxrx1_seed:0_epoch:{label}_model.pth" for label in ("best", "last"))


@pytest.fixture(scope="module")
def trained(root, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(runs.command(root, folder, "ERM", n_epochs=1)) == 0
    return folder


@pytest.fixture
def run_folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "folder" / "run")


def refused(capsys, path, bits, job, argv, code=2):
    """The last line on stderr while a path has these rights; without them the same command works."""
    before = sorted(path.parent.rglob("*"))
    with disks.mode(path, bits):
        assert job(list(map(str, argv))) == code
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert sorted(path.parent.rglob("*")) == before
    assert job(list(map(str, argv))) == 0
    return said


def test_a_run_in_a_folder_that_may_not_be_written(root, tiny, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    said = refused(capsys, folder, 0o555, main, runs.command(root, folder / "run", "ERM", n_epochs=1))
    runs.assert_says(said, f"--log_dir {folder / 'run'} cannot be written", "Permission denied")


def test_a_pack_or_a_prediction_where_nothing_may_be_written(root, tiny, run_folder, tmp_path, capsys):
    own_screen(tmp_path / "root", {"A-1": "train", "A-2": "test"})
    said = refused(capsys, tmp_path / "root" / "rxrx1", 0o555, tools, ["pack", tmp_path / "root"])
    runs.assert_says(said, "rxrx1/packed cannot be made (Permission denied)", "writable")
    said = refused(capsys, run_folder, 0o555, tools, ["predict", run_folder / MODEL, "--tta", "none"])
    runs.assert_says(said, f"{run_folder}/tta_none", "Permission denied")


@pytest.mark.parametrize(("name", "code"), [(LAST, 2), ("config.json", 1)])
def test_a_file_of_a_run_that_may_not_be_read(root, tiny, run_folder, capsys, name, code):
    argv = [*runs.command(root, run_folder, "ERM", n_epochs=1), "--resume"]
    said = refused(capsys, run_folder / name, 0, main, argv, code)
    assert str(run_folder / name) in said and "Permission denied" in said


@pytest.mark.parametrize("name", ["metadata.csv", "image"])
def test_a_file_of_the_data_that_may_not_be_read(root, tiny, tmp_path, capsys, name):
    folder = root / "rxrx1_v1.0"
    images = (folder / "images" / "HUVEC-01" / "Plate1").resolve().glob("*.png")
    path = next(images) if name == "image" else folder / name
    argv = runs.command(root, tmp_path / "run", "ERM", n_epochs=1)
    with disks.mode(path, 0):
        said = runs.sentence(capsys, main, argv, code=2)
    runs.assert_says(said, path.name, "Permission denied")
    assert main([*argv, "--resume"]) == 0
