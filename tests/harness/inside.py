"""Tiny runs inside a checkout: their command lines, and the files they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import runs

# Methods that a checkout's loop has no place for, ARM-BN unless --tta is none.
OUTSIDE = ("SimCLR", "BYOL", "DINOv2", "LISA", "ARM-BN", "IRMX-PAIR", "IRMX", "CS-ARM-BN")
LOGS = {"config.json", "log.txt"} | {
    f"{split}_{kind}.csv" for split in ("train", *runs.SPLITS) for kind in ("eval", "algo")
}


def files(dataset: str = "rxrx1") -> set[str]:
    """Names of everything that a run leaves in its folder."""
    epochs = ("best", "last")
    models = {f"{dataset}_seed:0_epoch:{epoch}_model.pth" for epoch in epochs}
    predictions = {f"{dataset}_split:{s}_seed:0_epoch:{e}_pred.csv" for s in runs.SPLITS for e in epochs}
    return LOGS | models | predictions


FILES = files()


def line(place: Path, root: Path, log_dir: Path, name: str, **changes: Any) -> list[str]:
    """The command line of a tiny run of the algorithm that the checkout knows as `name`."""
    changes = {"device": None, **changes}
    plain = runs.command(root, log_dir, name.removeprefix("abra:"), **changes)
    return ["wilds", str(place), "--", "--algorithm", name, *plain[2:]]


def epochs(log_dir: Path, split: str, kind: str = "eval") -> list[str]:
    """The epochs of a csv's rows."""
    return [row["epoch"] for row in runs.rows_of(log_dir / f"{split}_{kind}.csv")]


def names_in(log_dir: Path) -> set[str]:
    """Names of a folder's entries."""
    return {path.name for path in log_dir.iterdir()}
