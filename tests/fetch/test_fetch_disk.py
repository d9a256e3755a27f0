"""`abra-wilds fetch` onto disks that are too small, fill, or cannot be written."""

from __future__ import annotations

import os
import shutil

import pytest

from abra_wilds.__main__ import main
from abra_wilds.errors import InputError
from abra_wilds.fetch import fetch as module
from tests import disks, runs
from tests.data.datasets.published import read_tree
from tests.fetch.test_fetch import get


def test_too_little_disk_is_said_before_the_first_byte(site, wilds_archive, tmp_path, monkeypatch):
    enough = len(wilds_archive) * (1 + module.UNPACKED)
    usage = shutil.disk_usage(tmp_path)
    free = {"now": enough - 1}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free["now"]))
    with pytest.raises(InputError, match=r"GB free, and rxrx1 needs 0\.0 GB"):
        get(site, tmp_path / "data")
    assert site.bodies("rxrx1_v1.0.tar.gz") == [] and not (tmp_path / "data").exists()
    free["now"] = enough + 1
    get(site, tmp_path / "data")


def test_a_root_that_cannot_be_written_is_named(site, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["fetch", "rxrx1", str(tmp_path / "file" / "data"), "--source", site.url]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and "cannot be written" in said


@pytest.mark.parametrize("pattern", ["rxrx1_v1.0.tar.gz", "*.png", "metadata.csv", "*FETCHED.json*"])
@pytest.mark.parametrize("room", [0, 100])
def test_a_fetch_that_fills_the_disk_is_finished_by_the_same_command(
    site, wilds_files, tmp_path, capsys, pattern, room
):
    command = ["fetch", "rxrx1", str(tmp_path), "--source", site.url]
    with pytest.MonkeyPatch.context() as patch:
        disks.fill(patch, tmp_path, pattern, room)
        capsys.readouterr()
        assert main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    runs.assert_says(
        said,
        f"error: {tmp_path}",
        "No space left on device",
        "make room there, and give the same command again",
    )
    assert os.listdir(tmp_path) == [".rxrx1_v1.0.fetch"]
    assert main(command) == 0
    found = read_tree(tmp_path / "rxrx1_v1.0")
    assert {name: found[name] for name in wilds_files} == wilds_files
    assert os.listdir(tmp_path) == ["rxrx1_v1.0"]
