"""The simulator is a fair judge: new experiments are as easy as known ones only without bio-batch effects.

Everything on simulated data, by the real command's own pieces; two trainings of two to three minutes each.
"""

from __future__ import annotations

import os

import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.data.simulate import preset, simulate
from abra_wilds.engine.results import evaluate_saved

EPOCHS = 11
CHANCE = 1 / 20


@pytest.fixture(autouse=True)
def every_core():
    """These two train a real network; the rest of the suite runs on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


def erm_accuracies(folder, batch_effect: float) -> dict[str, float]:
    """Accuracy of each split after training ERM on the mini screen."""
    simulate(folder, preset("mini", batch_effect=batch_effect), workers=2)
    settings = {
        "root_dir": str(folder),
        "log_dir": str(folder / "run"),
        "model": "resnet18",
        "pretrained": False,
        "n_epochs": EPOCHS,
        "batch_size": 32,
        "warmup_epochs": 1.0,
        "loader_kwargs": {"num_workers": 2},
    }
    fit(run_config("ERM", **settings, evaluate_all_splits=False))
    records = evaluate_saved(run_config("ERM", **settings, eval_only=True))
    assert all(r.simulated for r in records)
    return {r.split: r.acc for r in records}


@pytest.mark.slow
def test_without_batch_effects_new_experiments_are_as_easy_as_known_ones(tmp_path):
    acc = erm_accuracies(tmp_path, batch_effect=0)
    # Two proportions of 1,536 images each differ by 0.04 in one of a hundred fair screens.
    assert abs(acc["id_test"] - acc["test"]) < 0.04 and acc["test"] > 0.5


@pytest.mark.slow
def test_with_batch_effects_new_experiments_are_clearly_harder(tmp_path):
    acc = erm_accuracies(tmp_path, batch_effect=1)
    assert acc["id_test"] - acc["test"] > 0.15 and acc["test"] > 2 * CHANCE
