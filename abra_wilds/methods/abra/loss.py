"""ABRA's two phases as functions, for the method and for loops of your own (arXiv 2603.05622, Eqs. 9-14).

Letters: N images, C channels, h w of a feature map, D features, O classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from abra_wilds.dist import means_across_ranks
from abra_wilds.functional.losses import arcface, cross_entropies, js_divergence
from abra_wilds.functional.precision import at_least_fp32, full_precision
from abra_wilds.methods.abra.perturbation import BatchShift, Insertion, Pair, draw_noise
from abra_wilds.nets.staged import bn_buffers_kept
from abra_wilds.types import StepOutput, Target, grouping

# From features (N, D) and what they show: each image's loss (N,), and class logits (N, O).
Task = Callable[[Tensor, Target], tuple[Tensor, Tensor]]


def abra_loss(
    features: Tensor,
    y: Tensor | Target,
    classifier: Callable[[Tensor], Tensor],
    arc_weight: Tensor | None,
    shift: BatchShift,
    *,
    alpha: float,
    bio_batch: Tensor | Sequence[int] | None = None,
    tail: nn.Module | None = None,
    lam: float = 0.8,
    margin: float = 0.5,
    scale: float = 30.0,
    js_weight: float = 1.0,
) -> StepOutput:
    """One step of ABRA (Algorithm 1) on what any network computed: K ascends, theta's loss is returned.

    Phase 1 moves the K of `shift` by dL_adv/dK on constants (Eqs. 10, 12), phase 2 is the loss of clean and
    shifted features (Eqs. 13, 14), whose gradient reaches the network through `features`. The defaults are
    those of method ABRA. Where `shift` is in evaluation mode the loss is that of clean features alone, and
    nothing moves.

    Args:
        features: (N, C, h, w) where the shift is to act, or pooled features (N, C). Of a map, averages go
            on, which equals shifting the map. Statistics of a map are of all its positions, those of pooled
            features of N values only, so prefer the map.
        y: (N,) class ids, or a Target where they are mixed (CutMix).
        classifier: (N, D) -> logits (N, O), such as nn.Linear; without a batch norm, which would cancel the
            shift.
        arc_weight: (O, D) class directions of ArcFace, a parameter of your optimiser; None leaves ArcFace
            out, and cross-entropy weighs 1.
        shift: its K and sigma_ema move.
        alpha: ascent step of K; the paper writes theta's learning rate.
        bio_batch: (N,) ids, any integers, best on the host, where they are read; None where all images are of
            one bio-batch.
        tail: what follows the shift, from all of `features` to (N, D); its batch norms keep the running
            statistics of clean features. None averages a map over its positions.
        lam: lambda, weight of cross-entropy against ArcFace (Eq. 10).
        margin: m of ArcFace, in radians (Eq. 11).
        scale: s of ArcFace (Eq. 11).
        js_weight: weight of R_JS (Eq. 13).

    Returns:
        The loss (), clean logits (N, O), and as logs L_adv, L_clean, L_shifted, R_JS and how large K are.

    Raises:
        InputError: for ids that are no integers, another number of them, or other channels than the shift's.
    """
    target = Target.of(y, len(features))
    _, groups = grouping(bio_batch, len(features), features.device)
    weights = (1.0, 0.0) if arc_weight is None else (lam, 1 - lam)
    task = partial(
        task_losses, classify=classifier, arc_weight=arc_weight, weights=weights, margin=margin, scale=scale
    )
    point = shift.measure(features, groups, pooled=tail is None)
    f = point.x if tail is None else tail(features)  # (N, D)
    if not shift.training:
        return clean_step(f, target, task)
    shift.observe(point.sigma)

    def shifted(at: Insertion, noise: Pair, K: Pair | None = None) -> Tensor:
        x = shift.shifted(at, noise, K)
        return x if tail is None else tail(x)

    def adversary(K: Sequence[Pair]) -> Tensor:
        return task(shifted(constant, noise, K[0]), target)[0].mean()

    constant, noise = point.detach(), draw_noise(point.mu, groups)
    with bn_buffers_kept(tail or shift):  # running statistics stay those of clean features
        adv = ascend([shift], adversary, alpha)
        noise = draw_noise(point.mu, groups)
        f_t = shifted(point, noise)
    loss, (logits, _), logs = robust_loss(f, f_t, target, task, js_weight)
    return StepOutput(loss, logits, {"L_adv": adv, **logs, **shift.summary(point.sigma, noise)})


def task_losses(
    f: Tensor,
    target: Target,
    *,
    classify: Callable[[Tensor], Tensor],
    arc_weight: Tensor | None,
    weights: tuple[float, float],
    margin: float,
    scale: float,
    arc: Callable[..., Tensor] = arcface,
) -> tuple[Tensor, Tensor]:
    """Each image's weighted sum of cross-entropy and ArcFace (Eq. 10), (N,), and class logits (N, O).

    Args:
        f: (N, D).
        target: of N images.
        classify: (N, D) -> (N, O).
        arc_weight: (O, D) class directions of ArcFace; None only where it weighs 0.
        weights: of cross-entropy and ArcFace.
        margin: m in radians.
        scale: s.
        arc: how ArcFace reads mixed labels.
    """
    w_ce, w_arc = weights
    with full_precision(f.device.type):
        f = at_least_fp32(f)
        logits = classify(f)
        losses = logits.new_zeros(len(f))
        if w_ce:
            losses = losses + w_ce * cross_entropies(logits, target)
        if w_arc:
            losses = losses + w_arc * arc(f, arc_weight, target, margin, scale)
    return losses, logits


def ascend(
    shifts: Sequence[BatchShift],
    adversary: Callable[[Sequence[Pair]], Tensor],
    alpha: float,
    steps: int = 1,
) -> Tensor:
    """Phase 1: K <- K + alpha dL_adv/dK (Eqs. 10, 12), on constants; returns L_adv before, () and detached.

    Args:
        shifts: whose K ascend; of several processes along the mean gradient.
        adversary: copies of each shift's K -> L_adv.
        alpha: ascent step.
        steps: of them.
    """
    found = []
    for _ in range(steps):
        K = [shift.leaves() for shift in shifts]
        with torch.enable_grad():
            adv = adversary(K)
            with full_precision(adv.device.type):
                grads = means_across_ranks(torch.autograd.grad(adv, [k for pair in K for k in pair]))
        for shift, g_mu, g_sigma in zip(shifts, grads[::2], grads[1::2], strict=True):
            shift.ascend(g_mu, g_sigma, alpha)
        found.append(adv.detach())
    return found[0]


def robust_loss(
    f: Tensor,
    f_t: Tensor,
    target: Target,
    task: Task,
    js_weight: float,
    *,
    summed: bool = False,
    detach_clean: bool = False,
) -> tuple[Tensor, Pair, dict[str, Tensor]]:
    """Phase 2: the loss of clean and shifted features (Eq. 13).

    Args:
        f: (N, D) clean features.
        f_t: (N, D) shifted ones.
        target: of N images.
        task: their losses and logits.
        js_weight: weight of R_JS (Eq. 14).
        summed: whether the two are summed instead of averaged.
        detach_clean: whether R_JS moves only the shifted side.

    Returns:
        The loss (), clean and shifted logits (N, O), and as logs the three terms.
    """
    losses, logits = task(torch.cat([f, f_t]), target.twice())
    (clean, hard), (p, q) = (half.mean() for half in losses.chunk(2)), logits.chunk(2)
    with full_precision(f.device.type):
        js = js_divergence(p.detach() if detach_clean else p, q)
        loss = (1.0 if summed else 0.5) * (clean + hard)
        if js_weight:
            loss = loss + js_weight * js
    logs = {"L_clean": clean.detach(), "L_shifted": hard.detach(), "R_JS": js.detach()}
    return loss, (p, q), logs


def clean_step(f: Tensor, target: Target, task: Task) -> StepOutput:
    """The loss of features (N, D) that are left as they are."""
    losses, logits = task(f, target)
    loss = losses.mean()
    return StepOutput(loss, logits, {"L_clean": loss.detach()})
