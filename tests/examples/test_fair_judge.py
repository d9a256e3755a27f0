"""The simulator is a fair judge: new experiments are as easy as known ones only without bio-batch effects.

Everything on simulated data, by the real command's own pieces, under the settings of compare_methods.py; each
of the two takes about a minute to simulate and train.
"""

from __future__ import annotations

import pytest

from abra_wilds import fit, run_config
from abra_wilds.engine.evaluation.results import evaluate_saved
from abra_wilds.simulate import preset, simulate

EPOCHS = 6
CHANCE = 1 / 20


def erm_accuracies(folder, batch_effect: float) -> dict[str, float]:
    """Accuracy of each split after training ERM on the mini screen."""
    simulate(folder, preset("mini", image_size=48, batch_effect=batch_effect), workers=2)
    settings = {
        "root_dir": str(folder),
        "log_dir": str(folder / "run"),
        "model": "timm:test_resnet",
        "pretrained": False,
        "n_epochs": EPOCHS,
        "batch_size": 32,
        "lr": 3e-3,
        "warmup_epochs": 1.0,
        "loader_kwargs": {"num_workers": 0},
    }
    fit(run_config("ERM", **settings, evaluate_all_splits=False))
    records = evaluate_saved(run_config("ERM", **settings, eval_only=True))
    assert all(r.simulated for r in records)
    return {r.split: r.acc for r in records}


@pytest.mark.slow
def test_without_batch_effects_new_experiments_are_as_easy_as_known_ones(tmp_path):
    acc = erm_accuracies(tmp_path, batch_effect=0)
    # Two proportions of 1,536 images each differ by 0.06 in fewer than one of a thousand fair screens.
    assert abs(acc["id_test"] - acc["test"]) < 0.06 and acc["test"] > 0.5


@pytest.mark.slow
def test_with_batch_effects_new_experiments_are_clearly_harder(tmp_path):
    acc = erm_accuracies(tmp_path, batch_effect=1)
    assert acc["id_test"] - acc["test"] > 0.15 and acc["test"] > 2 * CHANCE
