"""One optimisation step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_

from abra_wilds.config.optim import OptimConfig
from abra_wilds.errors import RunAborted
from abra_wilds.types import Batch, StepOutput

UNSCALED = GradScaler(enabled=False)


def share_of_step(config: OptimConfig, i: int, n: int) -> float:
    """Weight of batch i out of the n of an epoch in its optimiser step.

    1 / (batches of the step), which averages their gradients, or 1 where WILDS' sum is asked for; the last
    step of an epoch may hold fewer batches.
    """
    size = config.gradient_accumulation_steps
    return 1.0 if config.accumulate == "sum" else 1 / min(size, n - i // size * size)


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Inside, memory of the device that does not suffice is one sentence.

    Raises:
        RunAborted: with what needs less.
    """
    try:
        yield
    except RuntimeError as fault:
        if not out_of_memory(fault):
            raise
        raise RunAborted(
            "training does not fit the device's memory; start again, by --overwrite, with a lower "
            "--batch_size or with --amp bf16"
        ) from None


def out_of_memory(fault: RuntimeError) -> bool:
    """Whether the device's memory did not suffice; MPS has no type of its own for that."""
    return isinstance(fault, torch.OutOfMemoryError) or str(fault).startswith("MPS backend out of memory")


class Trained(Protocol):
    """What `step` asks of a method, or of the classifiers of the head phase."""

    def __call__(self, batch: Batch) -> StepOutput:
        """Everything that is differentiated."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Whose gradient is clipped."""

    def after_step(self) -> None:
        """Called once after each optimiser step."""


def step(
    method: Trained,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    share: float = 1.0,
    take: bool = True,
    max_norm: float | None = None,
    *,
    scaler: GradScaler = UNSCALED,
) -> StepOutput:
    """Differentiate one batch's loss, and move theta.

    The only place that calls backward() on a training loss. Where a scaled loss gave gradients that are not
    finite, theta stays and the scale falls. `after_step` is called all the same, because only the device
    knows, and what it does, such as letting a teacher follow, is right for a theta that stood still.

    Args:
        method: in training mode, its context set.
        batch: augmented, on the method's device.
        optimizer: over the method's parameters, gradients empty or accumulating.
        share: weight of this batch in the step.
        take: whether this batch ends the step.
        max_norm: clip the gradient's norm to this.
        scaler: scales the loss, and takes the scale off the gradients before they are clipped and used.
    """
    out: StepOutput = method(batch)
    if out.fresh_optimizer:
        optimizer.state.clear()
    scaler.scale(share * out.loss).backward()  # type: ignore[no-untyped-call]
    if take:
        if max_norm is not None:
            scaler.unscale_(optimizer)
            clip_grad_norm_(method.parameters(), max_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        method.after_step()
    return out
