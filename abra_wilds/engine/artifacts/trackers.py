"""Curves for a viewer, beside the csv files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from abra_wilds.dist import is_main
from abra_wilds.errors import InputError


class Tracker:
    """Writes nothing: the csv files are enough."""

    def write(self, split: str, values: Mapping[str, float], step: int) -> None:
        """Note values of a split at an optimiser step."""

    def close(self) -> None:
        """Finish writing."""


class TensorBoard(Tracker):
    """Scalars for TensorBoard; columns of single groups are left to the csv files."""

    def __init__(self, folder: Path, first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def write(self, split: str, values: Mapping[str, float], step: int) -> None:
        """Add a scalar for each value that is no count and of no single group."""
        for name, value in values.items():
            if "group:" not in name and "count" not in name and name not in ("epoch", "batch"):
                self.writer.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self.writer.close()


def check_tracker(name: str) -> None:
    """Raise if a tracker's package is missing.

    Raises:
        InputError: with how to install it.
    """
    if name == "tensorboard":
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            raise InputError(
                "--tracker tensorboard needs the package tensorboard; run `pip install 'abra-wilds[track]'`"
            ) from None


def make_tracker(name: str, folder: Path, first_step: int) -> Tracker:
    """The tracker of a name; what an interrupted run noted from first_step on is forgotten.

    Of several processes the main one alone writes.
    """
    return TensorBoard(folder, first_step) if name == "tensorboard" and is_main() else Tracker()
