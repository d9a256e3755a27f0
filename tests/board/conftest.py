"""A screen of which there is metadata alone, runs on it, and bundles that are refused."""

from __future__ import annotations

import shutil

import pytest

from abra_wilds.commands.board.bundle import main as bundle_main
from tests.board import boards  # makes the scripts of leaderboard/ importable
from tests.board.tables.table_boards import make_methods


@pytest.fixture(scope="session")
def screen(tmp_path_factory):
    return boards.make_screen(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="session")
def five(screen, tmp_path_factory):
    """Runs of seeds 0, 1, 2, 10 and 11, with an adaptation of each; never written to."""
    folder = tmp_path_factory.mktemp("five")
    return boards.make_runs(screen, folder, (0, 1, 10, 11, 2), tta="plate_bn", adapted={"tta": "plate_bn"})


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
def refused_bundle(capsys, tmp_path):
    """The sentence with which a bundle is refused; nothing is written."""

    def check(folder, *flags, out="b.tar.gz"):
        assert bundle_main([str(folder), "--out", str(tmp_path / out), *flags]) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.startswith("error: ") and shown.err.count("\n") == 1
        assert not [p for p in tmp_path.rglob("*") if ".tar.gz" in p.name or ".zip" in p.name]
        return shown.err

    return check
