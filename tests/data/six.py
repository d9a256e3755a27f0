"""A small simulated screen of six channels."""

from __future__ import annotations

from pathlib import Path

from abra_wilds.simulate import SimulationConfig, preset, simulate


def small_screen(layout: str = "rxrx1", replicates: int = 1) -> SimulationConfig:
    """Two lines of two training, one validation and one test experiment; 3 wells a plate, 192 sites."""
    return preset(
        "mini",
        layout=layout,
        image_size=32,
        classes=6,
        replicates=replicates,
        train_experiments=(2, 2, 0, 0),
        val_experiments=(1, 1, 0, 0),
        test_experiments=(1, 1, 0, 0),
    )


def write_small_six(root: Path, replicates: int = 1) -> Path:
    """Write it in a second, and return root: the root_dir for dataset "rxrx1_6ch"."""
    return simulate(root, small_screen(replicates=replicates)).parent
