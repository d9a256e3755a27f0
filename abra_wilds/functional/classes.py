"""Scores of predictions where classes do not come equally often, and how they are spread over bio-batches.

Letters: n images, O classes, G bio-batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abra_wilds.functional.effects import mix_spread
from abra_wilds.functional.precision import in_float64


def balanced_accuracy(y_pred: Tensor, y: Tensor) -> float:
    """The mean over the classes that occur of the share of their images that is right.

    Args:
        y_pred: (n,) predicted class ids.
        y: (n,) class ids.

    >>> balanced_accuracy(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))
    0.5
    """
    _, rows, n = torch.unique(y, return_inverse=True, return_counts=True)  # (n,), (O,)
    right = torch.bincount(rows, weights=in_float64(y_pred == y))
    return float((right / n).mean())


def class_mix_spread(y: Tensor, g: Tensor) -> float:
    """How far the class mix of bio-batches varies beyond chance (`mix_spread`), in [0, 1].

    Args:
        y: (n,) class ids.
        g: (n,) bio-batches, by any numbers.
    """
    (classes, rows), (groups, of) = (torch.unique(t, return_inverse=True) for t in (y, g))
    cells = len(groups) * len(classes)
    counts = torch.bincount(of * len(classes) + rows, minlength=cells)
    return mix_spread(counts.view(len(groups), len(classes)))
