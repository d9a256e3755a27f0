"""Linear evaluation of self-supervised features beats chance on simulated images; a minute or two each.

DINOv2 is not among them: a ViT learns next to nothing of the small screen in minutes, with labels or without.
"""

from __future__ import annotations

import pytest

from abra_wilds import fit, run_config
from abra_wilds.data.simulate import preset, simulate
from tests import runs

SETTINGS = {
    "model": "timm:test_resnet",
    "pretrained": False,
    "n_epochs": 2,
    "batch_size": 32,
    "lr": 3e-3,
    "warmup_epochs": 0,
    "loader_kwargs": {"num_workers": 0},
    "device": ["cpu"],
}
OWN = {
    "SimCLR": {"simclr_hidden": 256, "simclr_out": 64, "simclr_probe_epochs": 20},
    "BYOL": {"byol_hidden": 256, "byol_out": 64, "byol_probe_epochs": 20},
}


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    root = tmp_path_factory.mktemp("screen")
    simulate(root, preset("mini", image_size=48, replicates=6), workers=2)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_linear_evaluation_beats_chance_on_simulated_images(screen, tmp_path, name):
    settings = {**SETTINGS, **OWN[name], "root_dir": str(screen), "log_dir": str(tmp_path)}
    records = fit(run_config(name, preset="wilds", **settings))
    assert all(record.simulated for record in records)
    found = {r.split: r for r in records if r.checkpoint == "best"}["id_test"]
    chance = 1 / 16  # most images are of one of 16 treatments
    deviation = (chance * (1 - chance) / found.n) ** 0.5
    assert found.acc > 2 * chance > chance + 5 * deviation
    spread = [float(row["spread"]) for row in runs.rows_of(tmp_path / "train_algo.csv") if row["spread"]]
    assert len(spread) > 0 and min(spread) > 0.05  # the projections have not collapsed
