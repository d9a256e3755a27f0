"""How many classes a bio-batch holds, from how far its images lie apart: no posterior is asked.

Images of one class differ less than images of many, however their bio-batch shifts them all. Over the
channels of the batch norms that classes move most, with the variance of their means m_i between images,

    h = sum w (var_i m_i / r - s^2) / sum w Var_pi a,    w = Var_pi a / (Var_pi a + s^2)^2,

where r, the mean variance inside images over that of training, takes the bio-batch's contrast out,
is (1 - |p|^2) / (1 - |pi|^2) in the mean where classes lie equally far apart: 1 for the class mix of
training, 0 for a single class. Its error is measured on labelled bio-batches that were not trained on.

Letters: n images, O classes, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from abra_wilds.functional.effects import Effects
from abra_wilds.tta.mix import Reliability, scale_of

# Chosen on screens named in docs/adaptation.md: how many standard errors of h images must lie closer together
# than those of the training mix, v_bias before any bio-batch is seen, worth WORTH of them, and the spread
# below which little contrast is as good an explanation.
SURE, BIAS, WORTH, SLIGHT = 1.3, 0.2, 4, 0.2


def apart(m: Tensor, v: Tensor, inside: Tensor, effects: Effects, pi: Tensor) -> tuple[Tensor, Tensor]:
    """What images and classes add to numerator and denominator of h, in one batch norm.

    Args:
        m: (n, C) float64 channel means of 2 images or more.
        v: (n, C) their channel variances.
        inside: (C,) the mean of v in training.
        effects: on m.
        pi: (O,) class frequencies in training.

    Returns:
        (n,), whose mean is the numerator, and the denominator ().
    """
    n, of_classes = len(m), effects.spread_of_mix(pi)
    w = of_classes / (of_classes + effects.within).clamp_min(1e-12) ** 2
    r = v.mean(0).clamp_min(1e-12) / inside.clamp_min(1e-12)
    squares = (m - m.mean(0)) ** 2 * (n / (n - 1)) / r
    return ((squares - effects.within) * w).sum(1), (w * of_classes).sum()


def diversity(parts: Sequence[tuple[Tensor, Tensor]], n: int) -> Tensor:
    """What each image adds to h, (n,), from those of each batch norm; 1 where no class moves a channel."""
    unit = sum(float(of_classes) for _, of_classes in parts)
    return torch.stack([of_images for of_images, _ in parts]).sum(0) / unit if unit > 0 else torch.ones(n)


def diversity_errors(diversity: Sequence[Tensor], labels: Sequence[Tensor], pi: Tensor) -> Reliability:
    """How h errs, from labelled bio-batches; its slope is 1.

    Args:
        diversity: (n,) what each image of a bio-batch adds to h, which is their mean.
        labels: (n,) class ids of each.
        pi: (O,) class frequencies in training.
    """
    biases, noises = [], []
    for h, y in zip(diversity, labels, strict=True):
        n = len(y)
        if n > 1:
            shares = torch.bincount(y, minlength=len(pi)).double() / n
            error = h.cpu() - (1 - shares[y]) * (n / (n - 1) / scale_of(pi))
            noises.append(float(error.var()))
            biases.append(float(error.mean()) ** 2 - noises[-1] / n)
    bias = max((WORTH * BIAS + sum(biases)) / (WORTH + len(biases)), 1e-6)
    return Reliability(1.0, bias, sum(noises) / len(noises) if noises else 1.0)


def fewer_classes(diversity: Tensor, reliable: Reliability) -> float:
    """The least spread of the class mix that h (n,) leaves likely; 0 where that is less than SLIGHT."""
    n = len(diversity)
    few = 1 - float(diversity.mean()) - SURE * math.sqrt(reliable.error(n)) if n > 1 else 0.0
    return few if few >= SLIGHT else 0.0
