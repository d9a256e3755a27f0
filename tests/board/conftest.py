"""A screen of which there is metadata alone, runs on it, and bundles that are refused."""

from __future__ import annotations

import re
import shutil

import pytest

from abra_wilds.commands.board.bundle import main as bundle_main
from abra_wilds.commands.board.figures import main as figures_main
from tests.board import boards
from tests.board.tables.table_boards import make_methods
from tests.data.own.own_tables import mitocheck_rows, write_table


@pytest.fixture(scope="session")
def screen(tmp_path_factory):
    return boards.make_screen(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="session")
def like_mitocheck(tmp_path_factory):
    """A table without images for the specs of boards.OF_SCREENS: spec -> the words that a sweep takes."""
    table = str(write_table(tmp_path_factory.mktemp("mitocheck"), mitocheck_rows()))
    return {name: table if name in boards.OF_SCREENS else None for name in boards.SPECS}


@pytest.fixture(scope="session")
def five(screen, tmp_path_factory):
    """Runs of seeds 0, 1, 2, 10 and 11, with an adaptation of each; never written to."""
    folder = tmp_path_factory.mktemp("five")
    return boards.make_runs(screen, folder, (0, 1, 10, 11, 2), **boards.ADAPTED)


@pytest.fixture
def three(five, tmp_path):
    """A copy of seeds 0, 1 and 2 that a test may damage."""
    for seed in (0, 1, 2):
        shutil.copytree(five / f"seed{seed}", tmp_path / "runs" / f"seed{seed}")
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def made(screen, tmp_path_factory):
    """Three methods with chosen accuracies; never written to."""
    return make_methods(screen, tmp_path_factory.mktemp("made"))


@pytest.fixture
def mine(made, tmp_path):
    """A copy of them that a test may damage."""
    return shutil.copytree(made, tmp_path / "runs")


@pytest.fixture
def refused(capsys, tmp_path):
    """The sentence with which a command refuses; nothing is printed or written."""

    def check(main, *argv, code=2):
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert main(list(map(str, argv))) == code
        shown = capsys.readouterr()
        assert shown.out == "" and re.fullmatch(r"(error|Figure \w+ was not made): [^\n]{20,}\n", shown.err)
        assert sorted(tmp_path.rglob("*")) == before
        return shown.err

    return check


@pytest.fixture
def refused_bundle(refused, tmp_path):
    """The same of a bundle."""
    return lambda folder, *flags, out="b.tar.gz": refused(
        bundle_main, folder, "--out", tmp_path / out, *flags
    )


@pytest.fixture
def refused_figure(refused, tmp_path):
    """The same of a figure."""
    return lambda number, *flags, code=1: refused(
        figures_main, tmp_path, "--out", tmp_path / "out", "--figure", number, *flags, code=code
    )
