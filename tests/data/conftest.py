"""Fixtures of the data layer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from abra_wilds.data.datasets.catalogue import load_dataset, make_grouper, split_subset


@pytest.fixture(scope="session")
def dataset(sim_root: Path) -> Any:
    return load_dataset("rxrx1", sim_root)


@pytest.fixture(scope="session")
def plates(dataset: Any) -> Any:
    return make_grouper(dataset, ("experiment", "plate"))


@pytest.fixture(scope="session")
def train(dataset: Any) -> Any:
    return split_subset(dataset, "train")


@pytest.fixture(scope="session")
def six(six_root: Path) -> Any:
    return load_dataset("rxrx1_6ch", six_root)


@pytest.fixture
def copied_root(sim_root: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set that a test may damage."""
    return Path(shutil.copytree(sim_root, tmp_path / "copy"))


@pytest.fixture
def edited_root(sim_root: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes the root_dir of a metadata.csv that was changed by a function of its frame; without images."""

    def edit(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
        folder = tmp_path / "rxrx1_v1.0"
        folder.mkdir()
        (folder / "RELEASE_v1.0.txt").touch()
        change(pd.read_csv(sim_root / "rxrx1_v1.0" / "metadata.csv")).to_csv(
            folder / "metadata.csv", index=False
        )
        return tmp_path

    return edit


@pytest.fixture
def edited_six(six_root: Path, tmp_path: Path) -> Callable[..., Any]:
    """Loads the small screen's metadata.csv as changed by a function of its frame; without images."""

    def load(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Any:
        (tmp_path / "rxrx1").mkdir()
        rows = change(pd.read_csv(six_root / "rxrx1" / "metadata.csv"))
        rows.to_csv(tmp_path / "rxrx1" / "metadata.csv", index=False)
        return load_dataset("rxrx1_6ch", tmp_path)

    return load
