"""Teachers: networks that follow a student by an exponential moving average and are never differentiated."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn


def frozen(net: nn.Module) -> nn.Module:
    """The module itself, with nothing in it left to be trained."""
    return net.requires_grad_(False)


def frozen_copy(net: nn.Module) -> nn.Module:
    """An equal module of its own, with nothing in it to be trained."""
    return frozen(copy.deepcopy(net))


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move a teacher: momentum * teacher + (1 - momentum) * student, for weights and running statistics.

    Counters, which have no mean, are copied. A momentum of 0 makes them equal, one of 1 changes nothing else.

    Args:
        teacher: built as the student is.
        student: what is followed.
        momentum: in [0, 1].
    """
    moved: tuple[list[Tensor], list[Tensor]] = ([], [])
    for t, s in zip(_tensors(teacher), _tensors(student), strict=True):
        if t.is_floating_point():
            moved[0].append(t)
            moved[1].append(s)
        else:
            t.copy_(s)
    torch._foreach_lerp_(moved[0], moved[1], 1 - momentum)


def _tensors(module: nn.Module) -> chain[Tensor]:
    return chain(module.parameters(), module.buffers())
