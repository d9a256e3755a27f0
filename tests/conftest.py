"""Fixtures of the whole suite, and the `slow` marker."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is imported, here and in processes that tests start: on tiny tensors threads only wait.
os.environ["OMP_NUM_THREADS"] = os.environ.get("ABRA_TEST_THREADS", "1")
os.environ["OMP_WAIT_POLICY"] = "passive"  # waiting threads would take cores of other tests

import numpy as np
import pytest
from PIL import Image

from abra_wilds.simulate.design import COLUMNS
from tests import ranks, runs
from tests.data import other_sets
from tests.data.six import write_small_six

# submitit's import closes all log handlers; absl's, which jax brings, would close pytest's own stream.
with contextlib.suppress(ModuleNotFoundError):
    import submitit  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes seconds to minutes; runs with --runslow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The longest first, so that no process is left with them at the end.
    items.sort(key=lambda item: "test_fair_judge" not in item.nodeid)
    if not config.getoption("--runslow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow; give --runslow"))


def write_tiny_wilds(root: Path) -> Path:
    """A tiny RxRx1-WILDS: 4 lines, 4 experiments each, 4 plates, 8 wells, 2 sites, 32x32 RGB, 9 classes."""
    rng = np.random.default_rng(0)
    folder = root / "rxrx1_v1.0"
    rows = []
    for line in ("HEPG2", "HUVEC", "RPE", "U2OS"):
        for k, split in enumerate(("train", "train", "val", "test"), start=1):
            for plate in range(1, 5):
                for w in range(8):
                    # Eight of nine classes a plate, the last of them on each, as controls are in RxRx1.
                    label = 8 if w == 0 else (w - 1 + 2 * plate) % 8
                    rows += [_tiny_row(line, split, k, plate, f"B{w + 2:02}", site, label) for site in (1, 2)]
    for row in rows:
        path = folder / "images" / row[4] / f"Plate{row[5]}" / f"{row[6]}_s{row[7]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    (folder / "RELEASE_v1.0.txt").touch()
    return root


def _tiny_row(line: str, split: str, k: int, plate: int, well: str, site: int, label: int) -> list[str]:
    experiment = f"{line}-{k:02}"
    well_id = f"{experiment}_{plate}_{well}"
    kind = "negative_control" if label == 8 else "treatment"
    named = (experiment, str(plate), well, str(site), kind, f"s{label}", str(label))
    return [f"{well_id}_{site}", well_id, line, split, *named]


@pytest.fixture(scope="session")
def sim_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root_dir of a tiny RxRx1-WILDS; shared by the session, so never written to."""
    return write_tiny_wilds(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def root(sim_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of the tiny data set, for tiny runs; never written to."""
    return runs.small_root(sim_root, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def six_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root_dir of a small simulated screen of six channels; never written to."""
    return write_small_six(tmp_path_factory.mktemp("six"))


@pytest.fixture(scope="session")
def others_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root_dir of small data sets in the layouts of Camelyon17, iWildCam and FMoW; never written to."""
    root = tmp_path_factory.mktemp("others")
    for write in (other_sets.write_camelyon17, other_sets.write_iwildcam, other_sets.write_fmow):
        write(root)
    return root


@pytest.fixture(scope="session")
def on_two_ranks() -> Iterator[ranks.Ranks]:
    """Runs a function on two processes; see tests/ranks.py."""
    with ranks.two_ranks() as both:
        yield both


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs a command line that must be refused; returns its sentence."""
    return lambda argv, **kwargs: runs.refusal(capsys, argv, tmp_path / "run", **kwargs)
