"""Checkpoints: WILDS' keys (algorithm, epoch, best_val_metric), and in the last one what resuming needs.

Random states are not among it: every epoch seeds them from (seed, epoch), so an epoch can be run again from
its start.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler

from abra_wilds.dist import all_gather, rank
from abra_wilds.errors import InputError
from abra_wilds.methods.base import Method
from abra_wilds.results.files import atomic_write


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        epoch: the last epoch that is complete, counted from 0; -1 before the first.
        best_val_metric: of the best epoch so far, or None.
        best_epoch: that epoch, or -1.
        seconds: spent so far.
        flops: of the training steps so far.
        images: training images drawn so far.
        steps: optimiser steps so far.
        picked: adaptation that picks an epoch of its own -> its best metric and epoch.
    """

    epoch: int = -1
    best_val_metric: float | None = None
    best_epoch: int = -1
    seconds: float = 0.0
    flops: float = 0.0
    images: int = 0
    steps: int = 0
    picked: Mapping[str, tuple[float, int]] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    method: Method,
    progress: Progress,
    optimizer: torch.optim.Optimizer | None = None,
    heads: nn.Module | None = None,
    scaler: GradScaler | None = None,
) -> None:
    """Write a checkpoint, whole or not at all.

    With an optimiser it can be resumed from, with a scaler that scales too if its loss is scaled; in the head
    phase the classifiers in training belong to it.

    Raises:
        OSError: naming the file, if the system refuses to write all of it; what was there before stays.
    """
    # WILDS' names first, so that its own scripts read the file.
    state: dict[str, Any] = {"algorithm": method.state_dict(), **asdict(progress)}
    if optimizer is not None:
        state["optimizer"] = optimizer.state_dict()
    if heads is not None:
        state["heads"] = heads.state_dict()
    if scaler is not None and scaler.is_enabled():
        state["scaler"] = scaler.state_dict()
    try:
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as fault:
        # Where a write is refused torch fails in words of its own, followed by the system's.
        refusal = fault if isinstance(fault, OSError) else fault.__context__
        if not isinstance(refusal, OSError):
            raise
        raise OSError(refusal.errno, refusal.strerror, str(path)) from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content on the host; loading it runs no code.

    Raises:
        InputError: if there is none, or it is no checkpoint.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; train first, or give the path of one")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # Damaged files are answered with whatever their bytes lead to: KeyError, struct.error, MemoryError ...
    except Exception as fault:
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        if isinstance(fault, pickle.UnpicklingError):  # torch then advises to load it with code
            reason = "it holds other things than tensors and numbers, or is damaged"
        raise InputError(
            f"{path} is not a checkpoint that can be loaded ({reason}); restore it from a copy, or give "
            "another"
        ) from None
    if not isinstance(state, dict) or not isinstance(state.get("algorithm", {}), dict):
        raise InputError(f"{path} holds a {type(state).__name__}, not a checkpoint; give the path of one")
    return state


def read_progress(path: Path) -> Progress:
    """How far the run of a checkpoint had come.

    Raises:
        InputError: if there is none, or the file is no checkpoint.
    """
    return progress_of(read_checkpoint(path), path)


def common_progress(path: Path) -> Progress:
    """How far the run of a checkpoint had come, which all processes must find alike; without one, the start.

    Raises:
        InputError: on all of them, if they do not; or if the file is no checkpoint.
    """
    # Each process reads for itself: a folder that is not shared shows here, before any training.
    found = all_gather(read_progress(path) if path.exists() else Progress())
    if len(set(map(repr, found))) > 1:
        epochs = ", ".join(str(progress.epoch) for progress in found)
        raise InputError(
            f"--resume needs one {path.parent} for all processes, and they find {path.name} after epochs "
            f"{epochs} (-1: none); give a --log_dir that their machines share"
        )
    return found[rank()]


def progress_of(state: Mapping[str, Any], path: Path) -> Progress:
    """The progress in the content of a checkpoint's file; what an older version did not record is 0.

    Raises:
        InputError: for a value of another type.
    """
    found = {f.name: state[f.name] for f in fields(Progress) if f.name in state}
    for name, value in found.items():
        like = getattr(Progress(), name)
        kinds = dict if name == "picked" else int if isinstance(like, int) else (int, float)
        if not isinstance(value, kinds) and not (like is None and value is None):
            raise InputError(f"{path} says {name} is {value!r:.40}, which is none; restore the checkpoint")
    return Progress(**found)


def load_checkpoint(
    path: Path,
    method: Method,
    optimizer: torch.optim.Optimizer | None = None,
    heads: nn.Module | None = None,
    scaler: GradScaler | None = None,
) -> Progress:
    """Take over a checkpoint's weights, all of them, and the state of whatever else is given.

    Raises:
        InputError: if it does not fit the method.
    """
    state = read_checkpoint(path)
    needed = {"algorithm", "epoch", "best_val_metric"}
    scaler = scaler if scaler is not None and scaler.is_enabled() else None
    parts = {"optimizer": optimizer, "heads": heads, "scaler": scaler}
    needed |= {name for name, part in parts.items() if part is not None}
    if not needed <= set(state):
        raise InputError(
            f"{path} lacks {', '.join(sorted(needed - set(state)))}; give a checkpoint of this command"
        )
    try:
        method.load_state_dict(state["algorithm"])
        if heads is not None:
            heads.load_state_dict(state["heads"])
        if optimizer is not None:
            optimizer.load_state_dict(state["optimizer"])
        if scaler is not None:
            scaler.load_state_dict(state["scaler"])
    # The state of an optimiser is taken apart unchecked.
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as fault:
        raise InputError(f"{path} does not fit {method.name} as configured: {brief(fault)}") from None
    return progress_of(state, path)


def brief(fault: Exception) -> str:
    """The first thing that torch says does not fit, and of a list of weights the first and their number."""
    lines = str(fault).splitlines()
    first, *others = lines[1 if len(lines) > 1 else 0].strip().split('", "')
    return f'{first}" and {len(others)} more' if others else first
