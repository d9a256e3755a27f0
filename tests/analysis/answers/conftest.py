"""Fixtures of answers: a model trained on a small screen of five stains, and a plate that is new to it."""

import pytest

from abra_wilds import fit, run_config
from tests import runs
from tests.analysis.answers import made

PLATES = [f"{batch}{k}" for batch in ("b1", "b2", "b3", "b4") for k in "xy"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The run's folder; eb_bn picks an epoch too, so that its components go with the model."""
    folder = tmp_path_factory.mktemp("five")
    table = made.write(folder / "screen", made.rows_of(PLATES))
    flags = {"dataset": None, "root_dir": None, "screen": str(table), "split": ["test=0.25", "val=0.25"]}
    flags |= {"lr": 0.03, "n_epochs": 3, "also_tta": ["eb_bn,min=4"]}
    with pytest.MonkeyPatch.context() as patch:
        runs.use_tiny_backbone(patch)
        fit(run_config("ERM", **runs.settings(folder, folder / "run", "ERM", **flags)))
    return folder / "run"


@pytest.fixture
def tiny(monkeypatch):
    runs.use_tiny_backbone(monkeypatch)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """Two unlabelled plates; rows and the folder."""
    folder = tmp_path_factory.mktemp("fresh") / "screen"
    rows = made.rows_of(["newP", "newQ"], labels=False)
    made.write(folder, rows, seed=5)
    return folder, rows
