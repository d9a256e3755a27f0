"""Names of a run's files as WILDS' scripts form them, and what stands for their colons where a disk has none.

Windows, exFAT and shares refuse colons, so there a run writes `=` in their place. Every reader takes either.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

COLON, INSTEAD = SIGNS = ":", "="
MODEL = re.compile(r"(?P<dataset>.+)_seed[:=](?P<seed>\d+)_epoch[:=](?P<label>[^:=]+)_model\.pth")


class ModelName(NamedTuple):
    """What the name of a checkpoint says: the data set, the seed, and "best", "last" or the epoch."""

    dataset: str
    seed: int
    label: str


def model_name(dataset: str, seed: int, epoch: str | int) -> str:
    """Name of the checkpoint of the "best", "last" or numbered epoch.

    >>> model_name("rxrx1", 0, "best")
    'rxrx1_seed:0_epoch:best_model.pth'
    """
    return f"{dataset}_seed:{seed}_epoch:{epoch}_model.pth"


def predictions_name(dataset: str, split: str, seed: int, epoch: str | int, mark: str = "") -> str:
    """Name of the predictions of a split by that checkpoint; a mark follows the epoch.

    >>> predictions_name("rxrx1", "val", 0, "best")
    'rxrx1_split:val_seed:0_epoch:best_pred.csv'
    """
    return f"{dataset}_split:{split}_seed:{seed}_epoch:{epoch}{mark}_pred.csv"


def read_model_name(name: str) -> ModelName | None:
    """What the name of a checkpoint says, with either sign; None if it is no such name.

    >>> read_model_name("rxrx1_seed=0_epoch=best_model.pth")
    ModelName(dataset='rxrx1', seed=0, label='best')
    """
    found = MODEL.fullmatch(name)
    return found and ModelName(found["dataset"], int(found["seed"]), found["label"])


def with_sign(name: str, sign: str) -> str:
    """A name with this sign in place of the other."""
    return name.replace(COLON, sign).replace(INSTEAD, sign)


def found(path: Path, sign: str = COLON) -> Path:
    """A file by its name with the sign, or with the other where that alone exists."""
    own, other = (path.with_name(with_sign(path.name, s)) for s in sorted(SIGNS, key=sign.__ne__))
    return other if other.exists() and not own.exists() else own


def all_found(folder: Path, pattern: str) -> Iterator[Path]:
    """The files of a folder whose names fit a pattern, with either sign."""
    for sign in SIGNS:
        yield from folder.glob(with_sign(pattern, sign))


def sign_in(folder: Path, name: str) -> str:
    """The sign that names in a folder can have, found by writing a temporary file as real ones are written.

    Args:
        folder: exists.
        name: of a file that is to be written there.

    Raises:
        OSError: if the folder takes no file at all.
    """
    for sign in SIGNS:
        probe = folder / f".{with_sign(name, sign)}.{os.getpid()}.tmp"
        try:
            probe.touch()
            # Windows takes what follows a colon for a stream of the file before it.
            kept = probe.name in os.listdir(folder)
            probe.unlink()
        except OSError:
            if sign == INSTEAD:
                raise
            continue
        if kept:
            return sign
    return INSTEAD
