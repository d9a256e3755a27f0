"""The embedding between pooled features and heads (Wu et al. 2022, arXiv 2203.00332)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from abra_wilds.nets.staged import BATCH_NORMS


def make_neck(D: int, E: int) -> nn.Sequential:
    """BN - Linear - ReLU - BN - Linear - BN, without biases: (N, D) -> (N, E)."""
    return nn.Sequential(
        nn.BatchNorm1d(D),
        nn.Linear(D, E, bias=False),
        nn.ReLU(),
        nn.BatchNorm1d(E),
        nn.Linear(E, E, bias=False),
        nn.BatchNorm1d(E),
    )


def class_directions(O: int, E: int) -> nn.Parameter:
    """ArcFace's weight (O, E), uniform in +-1 / sqrt(E)."""
    weight: Tensor = torch.empty(O, E).uniform_(-(E**-0.5), E**-0.5)
    return nn.Parameter(weight)


def set_bn_momentum(module: nn.Module, momentum: float) -> None:
    """Give every batch norm inside this weight of the newest batch in its running statistics."""
    for m in module.modules():
        if isinstance(m, BATCH_NORMS):
            m.momentum = momentum
