"""Gaussian weights, consistency of several predictions, and one ascent step of Adam (ABA, arXiv 2307.09520).

Letters: P weights of an augmenter, N images, O classes. Logarithms are natural.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Adam's usual constants (Kingma & Ba 2015).
BETAS = (0.9, 0.999)
EPS = 1e-8


def gaussian_kl(mean: Tensor, std: Tensor, prior_std: float) -> Tensor:
    """KL(N(mean, std^2) || N(0, prior_std^2)), averaged over the weights as ABA's code does.

    Args:
        mean: (P,).
        std: (P,), positive.
        prior_std: of the prior, whose mean is 0.

    Returns:
        () zero where posterior and prior agree, else positive.
    """
    log_ratio = math.log(prior_std) - std.log()
    return (log_ratio + (std**2 + mean**2) / (2 * prior_std**2) - 0.5).mean()


def reparametrised(phi: Tensor) -> Tensor:
    """Weights m + e softplus(rho) with fresh standard normal e, differentiable in m and rho.

    Args:
        phi: (2, P), the rows m and rho.

    Returns:
        (P,).
    """
    m, rho = phi
    std: Tensor = F.softplus(rho)
    w: Tensor = m + torch.randn_like(m) * std
    return w


def consistency(views: Sequence[Tensor], floor: float = 1e-4) -> Tensor:
    """Mean of KL(p_k || M) over views and images, M being the mean of the p_k kept at `floor` or above.

    A class to which every view gives less than the floor contributes a negative amount, as in ABA's code.

    Args:
        views: logits (N, O) of each view of the same images.
        floor: smallest probability of the mean distribution.
    """
    lp = torch.stack([F.log_softmax(logits, dim=1) for logits in views])  # (K, N, O)
    lm = (lp.logsumexp(0) - math.log(len(views))).clamp_min(math.log(floor))  # (N, O)
    return (lp.exp() * (lp - lm)).sum(2).mean()


def adam_ascent(
    phi: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], t: int, lr: float
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One step of Adam that increases what has this gradient.

    Args:
        phi: what moves, any shape.
        gradient: like phi.
        moments: first and second moment before the step, like phi each; zeros at first.
        t: number of this step, from 1.
        lr: learning rate.

    Returns:
        phi and the moments after the step.
    """
    first = torch.lerp(gradient, moments[0], BETAS[0])
    second = torch.lerp(gradient**2, moments[1], BETAS[1])
    root = (second / (1 - BETAS[1] ** t)).sqrt()
    return phi + lr * (first / (1 - BETAS[0] ** t)) / (root + EPS), (first, second)
