"""Files by name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from abra_wilds.board.sweep.spec import SPECS, spec_path
from abra_wilds.recipes import flags
from abra_wilds.recipes.flags import recipe
from abra_wilds.results.files import same_file

RECIPES = Path(flags.__file__).parent


@pytest.mark.parametrize(("find", "name", "folder"), [(spec_path, "demo", SPECS), (recipe, "adabn", RECIPES)])
def test_a_folder_hides_no_file_of_the_package_and_a_file_does(tmp_path, monkeypatch, find, name, folder):
    monkeypatch.chdir(tmp_path)
    assert find(name) == find(f"{name}.yaml") == folder / f"{name}.yaml"
    (tmp_path / name).mkdir()
    assert find(name) == folder / f"{name}.yaml"
    (tmp_path / f"{name}.yaml").touch()
    assert find(f"{name}.yaml") == Path(f"{name}.yaml")


def test_a_second_name_is_a_copy_where_the_file_system_has_no_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"weights")
    same_file(first, second)
    first.write_bytes(b"others")
    assert second.read_bytes() == b"weights" and len(list(tmp_path.iterdir())) == 2
