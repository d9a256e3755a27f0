"""A checkout is found by its files, and whatever is none is refused in one sentence."""

import argparse
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from abra_wilds.errors import InputError
from abra_wilds.harness.checkout import NEEDED, find_checkout
from abra_wilds.harness.register import registered
from tests.harness.inside import STAND_IN, committed, git


@pytest.fixture
def copied(tmp_path):
    """A copy of the stand-in that a test may change."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(STAND_IN, tmp_path / "wilds", ignore=ignored))


def refusal(path):
    """The one sentence with which a folder is refused."""
    with pytest.raises(InputError) as fault:
        find_checkout(path)
    sentence = str(fault.value)
    assert "\n" not in sentence and str(path) in sentence
    return sentence


def test_a_checkout_is_found_with_its_version(checkout):
    assert checkout.path.is_absolute() and checkout.version.startswith("2.0")
    assert (checkout.examples / "run_expt.py").is_file()
    assert str(checkout).startswith(f"WILDS {checkout.version} in {checkout.path}, commit ")


def test_a_relative_path_finds_the_same_checkout(copied, monkeypatch):
    monkeypatch.chdir(copied.parent)
    assert find_checkout("wilds") == find_checkout(copied)


@pytest.mark.parametrize("name", NEEDED)
def test_a_folder_without_a_file_that_is_taken_hold_of_is_refused_by_its_name(copied, name):
    (copied / name).unlink()
    sentence = refusal(copied)
    assert f"it has no {name};" in sentence and "git clone https://github.com/p-lambda/wilds" in sentence


def test_neither_an_empty_folder_nor_a_file_nor_nothing_is_a_checkout(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "absent"):
        refusal(path)


@pytest.mark.parametrize("version", ["2.0.0", "2.0", "2.0.1", "2.0.0rc1", "2.0.10.dev0"])
@pytest.mark.parametrize("quote", ["'", '"'])
def test_the_2_0_line_is_taken(copied, version, quote):
    (copied / "wilds/version.py").write_text(f"import os\n\n__version__ = {quote}{version}{quote}\n")
    assert find_checkout(copied).version == version


@pytest.mark.parametrize("version", ["1.0.0", "1.2.2", "2.1.0", "20.0", "12.0.0", "3.0"])
def test_another_line_is_refused_with_what_to_check_out(copied, version):
    (copied / "wilds/version.py").write_text(f"__version__ = '{version}'\n")
    sentence = refusal(copied)
    assert f"WILDS {version}" in sentence and "v2.0.0" in sentence


def test_a_version_that_is_not_said_is_refused(copied):
    (copied / "wilds/version.py").write_text("version = (2, 0)\n")
    assert "unknown version" in refusal(copied)


def test_flags_are_those_of_the_scripts_own_parser(checkout, monkeypatch):
    seen = []

    class Reached(Exception):
        pass

    def parse_args(parser, *_):
        seen.extend(option for action in parser._actions for option in action.option_strings)
        raise Reached

    with registered(checkout):
        run_expt = import_module("run_expt")
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        with pytest.raises(Reached):
            run_expt.main()
    own = {option.removeprefix("--") for option in seen if option.startswith("--")} - {"help"}
    assert len(own) > 50 and checkout.flags() == own


def test_modules_are_the_bare_names_of_scripts_and_of_folders_with_scripts(checkout):
    names = checkout.modules()
    assert {"run_expt", "train", "utils", "transforms", "algorithms", "configs", "models"} <= names
    assert not {"__init__", "wilds", "examples", "__pycache__"} & names
    for name in names:
        assert (checkout.examples / f"{name}.py").is_file() or (checkout.examples / name).is_dir()


def test_everything_that_a_run_imports_from_the_checkout_is_among_its_modules(checkout):
    with registered(checkout):
        import_module("run_expt")
        import sys

        files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
    inside = {name.partition(".")[0] for name, file in files.items() if file.startswith(str(checkout.path))}
    assert len(inside) > 5 and inside <= checkout.modules()


def test_the_commit_is_gits(copied):
    found = find_checkout(committed(copied))
    assert found.commit() == git(copied, "rev-parse", "HEAD") and len(found.commit()) == 40
    assert str(found).endswith(f"commit {found.commit()[:12]}")


def test_the_commit_is_unknown_without_a_repository_or_without_git(copied, monkeypatch):
    assert find_checkout(copied).commit() == "unknown"
    git(copied, "init", "--quiet")
    assert find_checkout(copied).commit() == "unknown"
    committed(copied)
    monkeypatch.setenv("PATH", "")
    assert find_checkout(copied).commit() == "unknown"


def test_the_commit_of_a_repository_around_the_checkout_is_not_its_own(copied):
    (copied.parent / "notes.txt").touch()
    for command in (["init", "--quiet"], ["add", "notes.txt"], ["commit", "--quiet", "-m", "a project"]):
        git(copied.parent, *command)
    assert find_checkout(copied).commit() == "unknown"
