"""Files by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from abra_wilds.board.sweep.spec import SPECS, spec_path
from abra_wilds.recipes import flags
from abra_wilds.recipes.flags import recipe

RECIPES = Path(flags.__file__).parent


@pytest.mark.parametrize(("find", "name", "folder"), [(spec_path, "demo", SPECS), (recipe, "adabn", RECIPES)])
def test_a_folder_hides_no_file_of_the_package_and_a_file_does(tmp_path, monkeypatch, find, name, folder):
    monkeypatch.chdir(tmp_path)
    assert find(name) == find(f"{name}.yaml") == folder / f"{name}.yaml"
    (tmp_path / name).mkdir()
    assert find(name) == folder / f"{name}.yaml"
    (tmp_path / f"{name}.yaml").touch()
    assert find(f"{name}.yaml") == Path(f"{name}.yaml")
