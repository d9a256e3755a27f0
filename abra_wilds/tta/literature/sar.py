"""SAR: TENT that learns from certain images alone, at a sharp point (Niu et al. 2023, arXiv 2302.12400).

Each pass takes one step of sharpness-aware minimisation: the gradient that moves the parameters is taken a
distance rho away, where the mean entropy is highest to first order. Images whose entropy is E_0 = 0.4 ln O
or more are left out, at both points. Once the moving average of the entropies falls below 0.2, the
predictions are about to collapse, and the trained parameters come back. The last stage's parameters stay, as
in the paper.

Read for facts: mr-eggplant/SAR 492c1ad. Differences: after a recovery the moving average starts again, which
theirs sets back to the value that called for it; every bio-batch starts from the trained model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from abra_wilds.methods.base import Method
from abra_wilds.nets.staged import STAGES
from abra_wilds.tta.literature.affine import Descent, affine_copies, entropies, gradients

MARGIN = 0.4  # E_0 of Eq. 2, in units of ln O
RHO = 0.05  # of Eq. 4
RECOVERY, DECAY = 0.2, 0.9  # where the moving average calls for recovery, and what of it is kept a step


def sar(method: Method, passes: Iterable[Tensor], known: Sequence[Tensor] = ()) -> list[Tensor]:
    """Logits (N, O) of each pass, before its step.

    Args:
        method: in evaluation mode, and left as it was.
        passes: images (N, C_in, H, W) of each.
        known: not read.

    Raises:
        InputError: for a batch norm's input with one value a channel.
    """
    found: list[Tensor] = []
    with affine_copies(method, frozen=set(method.net.stages[STAGES[-1]].modules())) as parameters:
        trained = [t.detach().clone() for t in parameters]
        descent, average = Descent(parameters), None
        for x in passes:
            logits, entropy = sharp_step(method, x, descent)
            found.append(logits)
            if entropy is not None:
                average = entropy if average is None else DECAY * average + (1 - DECAY) * entropy
            if average is not None and average < RECOVERY:
                put_back(parameters, trained)
                descent, average = Descent(parameters), None
    return found


def sharp_step(method: Method, x: Tensor, descent: Descent) -> tuple[Tensor, float | None]:
    """Logits (N, O) before the step, and the mean entropy that it lowered; None if no image was certain."""
    logits = method.predict(x)
    H, limit = entropies(logits), MARGIN * math.log(logits.shape[1])
    certain = H.detach() < limit
    with displaced(descent.tensors, gradients(masked_mean(H, certain), descent.tensors)):
        H = entropies(method.predict(x))
        certain &= H.detach() < limit
        loss = masked_mean(H, certain)
        uphill = gradients(loss, descent.tensors)
    descent.move(uphill)
    return logits.detach(), float(loss.detach()) if certain.any() else None


def masked_mean(values: Tensor, kept: Tensor) -> Tensor:
    """Mean over kept (N,) of values (N,), (); 0 where none is."""
    return (values * kept).sum() / kept.sum().clamp(min=1)


@contextmanager
def displaced(tensors: Sequence[Tensor], directions: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the tensors lie rho further along the directions, whose joint length does not count."""
    own = [t.detach().clone() for t in tensors]
    length = torch.stack([g.norm() for g in directions]).norm()
    put_back(tensors, [t + RHO * g / (length + 1e-12) for t, g in zip(own, directions, strict=True)])
    yield
    put_back(tensors, own)


@torch.no_grad()
def put_back(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Give tensors other values."""
    for t, value in zip(tensors, values, strict=True):
        t.copy_(value)
