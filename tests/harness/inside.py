"""Tiny runs inside a checkout: their command lines, and the files they leave."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests import runs

# Methods that a checkout's loop has no place for, ARM-BN unless --tta is none.
OUTSIDE = ("SimCLR", "BYOL", "DINOv2", "LISA", "ARM-BN", "IRMX-PAIR", "IRMX", "CS-ARM-BN")
STAND_IN = Path(__file__).parent / "fake_checkout"


def files(dataset: str = "rxrx1") -> set[str]:
    """Names of everything that a run leaves in its folder; a checkout keeps no records."""
    return runs.files(dataset) - {"results.jsonl", "model"}


FILES = files()


def git(folder: Path, *args: object) -> str:
    """Standard output of git, which is not to refresh its index."""
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    command = ["git", "--no-optional-locks", "-C", str(folder), *who, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def committed(folder: Path) -> Path:
    """The folder, after a commit of all that is in it."""
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "stand-in"]):
        git(folder, *command)
    return folder


def line(place: Path, root: Path, log_dir: Path, name: str, **changes: Any) -> list[str]:
    """The command line of a tiny run of the algorithm that the checkout knows as `name`."""
    changes = {"device": None, **changes}
    plain = runs.command(root, log_dir, name.removeprefix("abra:"), **changes)
    return ["wilds", str(place), "--", "--algorithm", name, *plain[2:]]


def epochs(log_dir: Path, split: str, kind: str = "eval") -> list[str]:
    """The epochs of a csv's rows."""
    return [row["epoch"] for row in runs.rows_of(log_dir / f"{split}_{kind}.csv")]
