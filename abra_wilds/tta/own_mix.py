"""Predictions of a bio-batch by the class mix that its other images show, and by images that look alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from abra_wilds.tta.literature.lame import NEIGHBOURS, neighbours

# Chosen on screens named in docs/adaptation.md: posteriors are too sure to be taken for independent.
BY_MIX, BY_NEIGHBOURS = 0.7, 0.3
ROUNDS, TOLERANCE = 100, 1e-6


def by_own_mix(logits: Tensor, features: Tensor, known: Tensor, pi: Tensor, kappa: float) -> Tensor:
    """Logits (n, O) of a bio-batch, corrected by what its other images show.

    Its class mix has a Dirichlet prior of strength kappa around pi. Given the posteriors p_j of the m - 1
    other images of unknown class its mean is mix_i = (kappa pi + sum_j p_j) / (kappa + m - 1), and that of
    image i becomes

        log p_i + BY_MIX log(mix_i / pi) + BY_NEIGHBOURS (m - 1 - k) / (kappa + m - 1) sum_{j in N(i)} p_j,

    the fixed point of collapsed variational Bayes (Asuncion et al. 2009, arXiv 1205.2662) with the term of
    LAME (Boudiaf et al. 2022) over the k = 5 nearest images N(i), less where these are most of them.
    An image alone keeps its logits, and so do all where kappa is infinite.

    Args:
        logits: (n, O).
        features: (n, D), by which images are alike.
        known: (n,) class ids of images whose class is known, -1 for all others; the former keep their logits.
        pi: (O,) class frequencies in training.
        kappa: strength of the prior.
    """
    rows = (known < 0).nonzero()[:, 0].to(logits.device)
    m, pi = len(rows), pi.to(logits.device).double()
    if m < 2 or math.isinf(kappa):
        return logits
    near = neighbours(features[rows].float(), NEIGHBOURS)  # (m, k)
    alike = BY_NEIGHBOURS * (m - 1 - near.shape[1]) / (kappa + m - 1)
    log_p = logits[rows].double().log_softmax(1)
    p, more = log_p.exp(), torch.zeros_like(log_p)
    for _ in range(ROUNDS):
        before, mix = p, (kappa * pi + p.sum(0) - p) / (kappa + m - 1)
        more = BY_MIX * (mix / pi).clamp_min(1e-12).log() + alike * p[near].sum(1)
        p = (log_p + more).softmax(1)
        if float((p - before).abs().max()) < TOLERANCE:
            break
    return logits.index_add(0, rows, more.to(logits.dtype))
