"""The class mix of a bio-batch from class posteriors that may be wrong.

A network that meets a new bio-batch confuses classes, and does so for all its images alike. How much is
measured on labelled bio-batches that it was not trained on: with the mix p of a bio-batch's n images and the
mean posterior q, q - pi = beta (p - pi) + e, where the error e of variance v_bias + v_image / n is common to
the images or each image's own. All variances are in units of diag(pi) - pi pi', whose trace is 1 - |pi|^2.

Letters: n images, O classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Chosen on screens named in docs/adaptation.md: a mix is believed to differ from the training bio-batches'
# where the posteriors lie CLEAR times as far from it as their error does, and the error that is left counts
# DOUBT times, because errors of posteriors go along with classes, to which networks are most sensitive.
CLEAR, DOUBT = 6.0, 10.0
MOST = 0.9  # spread of a class mix beyond chance: no image is certain to show the class of the others


@dataclass(frozen=True)
class Reliability:
    """What mean posteriors of new bio-batches say of their class mix.

    Attributes:
        slope: beta, the share of a deviation from the training mix that they show.
        bias: v_bias.
        noise: v_image.
    """

    slope: float
    bias: float
    noise: float

    def error(self, n: int) -> float:
        """Variance of the error of n images' mean."""
        return self.bias + self.noise / n


@dataclass(frozen=True)
class Mix:
    """The estimated class mix of a bio-batch.

    Attributes:
        frequencies: (O,), which sum to 1.
        spread: V, how far such a mix may lie from the training mix, sampling included.
        doubt: U, the variance that is left; it lies in [0, V].
        kappa: strength of a Dirichlet prior around the training mix from which such a mix comes.
    """

    frequencies: Tensor
    spread: float
    doubt: float
    kappa: float = math.inf


def scale_of(pi: Tensor) -> float:
    """1 - |pi|^2, in which variances of a mix are measured."""
    return max(float(1 - (pi**2).sum()), 1e-12)


def reliability(posteriors: Sequence[Tensor], labels: Sequence[Tensor], pi: Tensor) -> Reliability:
    """How well posteriors tell the class mix, from labelled bio-batches that were not trained on.

    Args:
        posteriors: (n, O) of each bio-batch.
        labels: (n,) class ids of each.
        pi: (O,) class frequencies in training.
    """
    pi = pi.double()
    p = [q.double() - pi for q in posteriors]
    d = [F.one_hot(y, len(pi)).double() - pi for y in labels]
    along = sum(float((a * b).sum()) for a, b in zip(p, d, strict=True))
    slope = max(along / max(sum(float((b**2).sum()) for b in d), 1e-12), 1e-3)
    biases, noises = [], []
    for a, b in zip(p, d, strict=True):
        error, n = a - slope * b, len(a)
        if n > 1:
            noise = float(error.var(0).sum()) / scale_of(pi)
            noises.append(noise)
            biases.append(float((error.mean(0) ** 2).sum()) / scale_of(pi) - noise / n)
    if not noises:
        return Reliability(slope, 1.0, 1.0)
    return Reliability(slope, max(sum(biases) / len(biases), 1e-6), sum(noises) / len(noises))


def class_mix(
    posteriors: Tensor,
    known: Tensor,
    pi: Tensor,
    usual: float,
    reliable: Reliability,
    support: float = 1.0,
    few: float = 0.0,
) -> Mix:
    """The class mix of a bio-batch: that of training, moved towards the posteriors as far as they are clear.

    Args:
        posteriors: (n, O) of its images.
        known: (n,) class ids of images whose class is known, such as controls; -1 for all others.
        pi: (O,) class frequencies in training.
        usual: spread of the mix over training bio-batches, from `mix_spread`.
        reliable: of such posteriors.
        support: in [0, 1], how far the images' statistics bear an unusual mix out.
        few: least spread of the mix by how little the images differ.
    """
    pi, open_rows = pi.double(), known < 0
    n, m = len(known), int(open_rows.sum())
    certain = F.one_hot(known[~open_rows], len(pi)).double().sum(0) / n  # sums to the share that is known
    if m == 0:
        return Mix(certain, 1 / n, 0.0)
    # What is not known is expected to fill the training mix up.
    rest = (pi - certain).clamp_min(0) + 1e-12
    rest = rest / rest.sum()
    d = posteriors[open_rows].double().mean(0) - rest
    error = reliable.error(m)
    beta2 = reliable.slope**2
    seen = float((d**2).sum()) / scale_of(rest)
    # A network that hardly shows the class mix would else take an error just above CLEAR for a single class.
    unusual = support * min((seen - CLEAR * error) / max(beta2, CLEAR * error), 1.0)
    few = min(few, seen / beta2)  # nor more than posteriors may show
    spread = max(unusual, max(usual, few) + 1 / m)
    gain = reliable.slope * spread / (beta2 * spread + error)
    estimate = (rest + gain * d).clamp_min(0)
    share = m / n
    doubt = spread * DOUBT * error / (beta2 * spread + DOUBT * error)
    beyond_chance = min(max(unusual, usual, few), MOST)
    kappa = 1 / beyond_chance - 1 if beyond_chance > 0 else math.inf
    return Mix(certain + share * estimate / estimate.sum(), spread, share**2 * doubt, kappa)


def no_labels(like: Tensor) -> Tensor:
    """`known` of images (n, ...) of which none is."""
    return torch.full((len(like),), -1, dtype=torch.int64, device=like.device)
