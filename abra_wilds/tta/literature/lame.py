"""LAME: predictions that agree with those of similar images (Boudiaf et al. 2022, arXiv 2201.05718).

Laplacian-adjusted maximum likelihood, over the images i of a bio-batch: the fixed point y_i ~ p_i exp(sum_j
w_ij y_j), where for symmetric w sum_i y_i . (log p_i - log y_i) + 1/2 sum_ij w_ij y_i . y_j is stationary.
p_i are the model's probabilities; w_ij is 1 where j is one of the five nearest neighbours of i by the angle
between their features, and 0 elsewhere. No statistic and no weight changes.

Read for facts: fiveai/LAME e6ec610, which does not make w symmetric either. Difference: ours stops where no
probability moves by more than 1e-6, theirs by the change of the objective; both after 100 rounds at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from abra_wilds.methods.base import Method
from abra_wilds.tta.features import classified

NEIGHBOURS = 5
ROUNDS, TOLERANCE = 100, 1e-6


@torch.no_grad()
def lame(method: Method, passes: Iterable[Tensor], known: Sequence[Tensor] = ()) -> list[Tensor]:
    """Log-probabilities (N, O) of each pass, which agree over all passes.

    Args:
        method: in evaluation mode.
        passes: images (N, C_in, H, W) of each.
        known: not read.
    """
    with classified(method) as features:
        logits = [method.predict(x) for x in passes]
    log_y = agreed(torch.cat(logits), nearest(torch.cat(list(features))))
    return list(torch.split(log_y, [len(z) for z in logits]))


def nearest(f: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """The affinities w (n, n): ones at each row's k nearest others by the angle between features (n, D)."""
    return f.new_zeros(len(f), len(f)).scatter_(1, neighbours(f, k), 1.0)


def neighbours(f: Tensor, k: int) -> Tensor:
    """Each row's k nearest others, or all of fewer, by the angle between features (n, D); (n, k)."""
    f = F.normalize(f, dim=1)
    return (f @ f.T).fill_diagonal_(-torch.inf).topk(min(k, len(f) - 1)).indices


def agreed(logits: Tensor, w: Tensor) -> Tensor:
    """Logarithms of y (n, O), of logits (n, O) and affinities w (n, n)."""
    log_p = logits.log_softmax(1)
    log_y = log_p
    for _ in range(ROUNDS):
        before, log_y = log_y.exp(), (log_p + w @ log_y.exp()).log_softmax(1)
        if float((log_y.exp() - before).abs().max()) < TOLERANCE:
            break
    return log_y
