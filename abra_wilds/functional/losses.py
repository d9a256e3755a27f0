"""Losses as pure functions of tensors.

Letters: N images, O classes, D features. Every function works in the precision it is given; callers hand over
float32 or better. Logarithms are natural.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from abra_wilds.functional.stats import group_of_row
from abra_wilds.types import Target

# Keeps arccos and sqrt(1 - c^2) differentiable: the latter's slope is infinite at |c| = 1.
COSINE_GUARD = 1e-6


def cross_entropies(logits: Tensor, target: Target) -> Tensor:
    """Cross-entropy of every image, exact for mixed targets.

    Args:
        logits: (N, O).
        target: of N images.

    Returns:
        (N,).
    """
    clean = F.cross_entropy(logits, target.y, reduction="none")
    if target.y_b is None:
        return clean
    return target.w * clean + (1 - target.w) * F.cross_entropy(logits, target.y_b, reduction="none")


def cosine_logits(features: Tensor, weight: Tensor) -> Tensor:
    """Cosines between features and class directions, kept inside (-1, 1) by `COSINE_GUARD`.

    Args:
        features: (N, D).
        weight: (O, D).

    Returns:
        (N, O).
    """
    # The (N, O) products are divided by the norms, not the (O, D) weights before them: those are many more.
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1).clamp_min(1e-12)  # (O,)
    cosines: Tensor = F.normalize(features, dim=1) @ weight.T / norms
    return cosines.clamp(-1 + COSINE_GUARD, 1 - COSINE_GUARD)


def add_angular_margin(cosines: Tensor, margin: float) -> Tensor:
    """cos(theta + m), continued past theta = pi - m by a line so that it keeps falling (Deng et al. 2019).

    Args:
        cosines: any shape, inside (-1, 1).
        margin: m in radians, in [0, pi].
    """
    sines = (1 - cosines**2).sqrt()
    turned = cosines * math.cos(margin) - sines * math.sin(margin)
    line = cosines - margin * math.sin(math.pi - margin)
    return torch.where(cosines > math.cos(math.pi - margin), turned, line)


def arcface_logits(
    features: Tensor, weight: Tensor, Y: Tensor, margin: float = 0.5, scale: float = 30.0
) -> Tensor:
    """ArcFace logits for a target distribution (Eq. 11; dense form of the RxRx1 competition code).

    s * (Y * psi(c) + (1 - Y) * c) with psi the margin of `add_angular_margin`; for one-hot Y this is Eq. 11.

    Args:
        features: (N, D).
        weight: (O, D).
        Y: (N, O), rows sum to one.
        margin: m in radians.
        scale: s.

    Returns:
        (N, O).
    """
    c = cosine_logits(features, weight)
    return scale * (c + Y * (add_angular_margin(c, margin) - c))


def arcface(features: Tensor, weight: Tensor, target: Target, margin: float, scale: float) -> Tensor:
    """ArcFace loss of every image, dense in the mixed target (Eq. 11; its reading of CutMix labels).

    Args:
        features: (N, D).
        weight: (O, D).
        target: of N images.
        margin: m in radians.
        scale: s.

    Returns:
        (N,).
    """
    Y = target.dense(len(weight), features.dtype)
    return -(Y * F.log_softmax(arcface_logits(features, weight, Y, margin, scale), dim=1)).sum(1)


def arcface_two_term(features: Tensor, weight: Tensor, target: Target, margin: float, scale: float) -> Tensor:
    """ArcFace loss of every image as w ArcFace(y) + (1 - w) ArcFace(y_b), another reading of mixed labels.

    Arguments and result as for `arcface`.
    """
    O = len(weight)
    parts = (
        [(target.y, target.w)] if target.y_b is None else [(target.y, target.w), (target.y_b, 1 - target.w)]
    )
    loss = features.new_zeros(len(features))
    for y, w in parts:
        logits = arcface_logits(features, weight, F.one_hot(y, O).to(features.dtype), margin, scale)
        loss = loss + w * F.cross_entropy(logits, y, reduction="none")
    return loss


def js_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two softmax distributions, batch mean, in [0, ln 2] (Eq. 14).

    Args:
        p_logits: (N, O).
        q_logits: (N, O).
    """
    lp, lq = F.log_softmax(p_logits, dim=1), F.log_softmax(q_logits, dim=1)
    lm = torch.logaddexp(lp, lq) - math.log(2)
    return 0.5 * (lp.exp() * (lp - lm) + lq.exp() * (lq - lm)).sum(1).mean()


def irm_penalty(losses: Tensor, scale: Tensor) -> Tensor:
    """Unbiased squared gradient of one domain's risk by a dummy scale (IRMv1, arXiv 1907.02893).

    Args:
        losses: (n,) sample losses of one domain, made with logits multiplied by scale; n >= 2.
        scale: () ones, requires grad.

    Returns:
        () product of the gradients on even and on odd positions; it can be negative.
    """
    even, odd = (torch.autograd.grad(losses[i::2].mean(), scale, create_graph=True)[0] for i in (0, 1))
    return even * odd


def coral(features: Tensor, groups: Sequence[Tensor]) -> Tensor:
    """Mean distance between the means and covariances of two domains (Deep CORAL, Sun & Saenko 2016).

    For a pair: mean of squared differences of the D means plus mean of squared differences of the D x D
    covariances (divided by n - 1). The mean over pairs of |a - b|^2 is 2 / (G - 1) times the summed squared
    distance to the centre, so the cost grows with G, not with G^2.

    Args:
        features: (N, D).
        groups: G index tensors, one for each domain; at least two rows each.
    """
    if len(groups) < 2:
        return features.new_zeros(())
    means, covariances = [], []
    for rows in groups:
        f = features[rows]  # (n, D)
        centred = f - f.mean(0)
        means.append(f.mean(0))
        covariances.append(centred.T @ centred / (len(f) - 1))

    def spread(values: list[Tensor]) -> Tensor:
        centre = torch.stack(values).mean(0)
        return torch.stack([((v - centre) ** 2).mean() for v in values]).sum() * (2 / (len(values) - 1))

    return spread(means) + spread(covariances)


def domain_risks(logits: Tensor, target: Target, groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of each domain, and its `irm_penalty`, with all slopes from one differentiation.

    Even and odd positions of each domain have a dummy scale of their own: one gradient holds all slopes.

    Args:
        logits: (N, O).
        target: of N images.
        groups: G index tensors, one for each domain; at least two rows each.

    Returns:
        Risks (G,) and penalties (G,), which can be negative.
    """
    halves = [rows[i::2] for rows in groups for i in (0, 1)]
    half_of = group_of_row(halves, len(target.y))  # (N,)
    scale = logits.new_ones(len(halves)).requires_grad_()
    losses = cross_entropies(scale[half_of, None] * logits, target)  # (N,)
    means = torch.stack([losses[half].mean() for half in halves])
    slopes = torch.autograd.grad(means.sum(), scale, create_graph=True)[0].reshape(-1, 2)  # (G, 2)
    return torch.stack([losses[rows].mean() for rows in groups]), slopes[:, 0] * slopes[:, 1]
