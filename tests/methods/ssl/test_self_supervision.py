"""Linear evaluation of self-supervised features beats chance on simulated images; a minute or two each.

Most images show one of 16 treatments. DINOv2's are larger, show one of 4 treatments and have no bio-batch
effects: of the others the smallest vision transformer of timm's learns little in minutes, with labels or not.
"""

import pytest

from abra_wilds import fit, run_config
from abra_wilds.simulate import preset, simulate
from tests import runs

COMMON = {"pretrained": False, "loader_kwargs": {"num_workers": 0}, "device": ["cpu"]}
TRAINING = {"model": "timm:test_resnet", "n_epochs": 2, "batch_size": 32, "lr": 3e-3, "warmup_epochs": 0}
OWN = {
    "SimCLR": {"simclr_hidden": 256, "simclr_out": 64, "simclr_probe_epochs": 20},
    "BYOL": {"byol_hidden": 256, "byol_out": 64, "byol_probe_epochs": 20},
}
DINO = {
    **{"global_size": 96, "local_size": 48, "n_local": 2, "prototypes": 256, "hidden": 128, "bottleneck": 64},
    **{"freeze_epochs": 0, "teacher_temp": 0.04, "koleo_weight": 0.3, "layer_decay": 1.0, "patch_lr": 1.0},
    **{"patch_mean": True, "probe_epochs": 30},
}
DINO_TRAINING = {"n_epochs": 20, "batch_size": 32, "lr": 1e-3, "optimizer": "AdamW", "warmup_epochs": 1}


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    root = tmp_path_factory.mktemp("screen")
    simulate(root, preset("mini", image_size=48, replicates=6), workers=2)
    return root


def trained(name, root, log_dir, **settings):
    """The record of id_test of a run from random weights."""
    records = fit(
        run_config(name, preset="wilds", **COMMON, **settings, root_dir=str(root), log_dir=str(log_dir))
    )
    assert all(record.simulated for record in records)
    return next(r for r in records if r.checkpoint == "best" and r.split == "id_test")


def spreads(log_dir):
    """The spread of projections in every row of the log."""
    return [float(row["spread"]) for row in runs.rows_of(log_dir / "train_algo.csv") if row["spread"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_linear_evaluation_beats_chance_on_simulated_images(screen, tmp_path, name):
    found = trained(name, screen, tmp_path, **TRAINING, **OWN[name])
    chance = 1 / 16
    deviation = (chance * (1 - chance) / found.n) ** 0.5
    assert found.acc > 2 * chance > chance + 5 * deviation
    assert min(spreads(tmp_path)) > 0.05  # the projections have not collapsed


@pytest.mark.slow
def test_linear_evaluation_of_dinov2_beats_chance_and_untrained_weights(tmp_path):
    simulate(tmp_path / "screen", preset("mini", image_size=96, classes=6, batch_effect=0.0), workers=2)
    own = {"model": "timm:test_vit", **{f"dinov2_{name}": value for name, value in DINO.items()}}
    args = ("DINOv2", tmp_path / "screen")
    untrained = trained(*args, tmp_path / "untrained", n_epochs=0, warmup_epochs=0, **own)
    found = trained(*args, tmp_path / "trained", **DINO_TRAINING, **own)
    chance = 11 / 52  # wells of a treatment on its plate
    deviation = (found.acc * (1 - found.acc) / found.n) ** 0.5
    assert found.acc > chance + 5 * deviation
    assert found.acc > untrained.acc + 3 * 2**0.5 * deviation
    assert min(spreads(tmp_path / "trained")) > 0.05
