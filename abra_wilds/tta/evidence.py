"""What a bio-batch shows of the temperature of its predictions without the labels of the images in question.

Letters: n images, O classes, P wells of two sites; t is the logarithm of a temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from abra_wilds.errors import InputError
from abra_wilds.functional.calibration import grid_moments, label_likelihood, pair_likelihood

LOG_T = torch.linspace(math.log(0.15), math.log(10), 90, dtype=torch.float64)
FEWEST_PAIRS = 8  # wells of two sites below which these say nothing

Moments = tuple[float, float]  # mean and variance


@dataclass(frozen=True)
class Evidence:
    """A bio-batch without the labels of the images in question.

    Attributes:
        logits: (n, O) log-probabilities of all images before their class mix corrects them.
        correction: (n, O) what the class mix adds to them, or None.
        asked: (n,) whether the class of an image is in question.
        pairs: (2, P) rows of two sites of a well.
        agreed: images of equal adapted and unadapted prediction.
        sites: mean and variance of t by sites, or None.
        controls: mean and variance of t by controls, or None.
        known: (n,) classes where they are not in question.
    """

    logits: Tensor
    correction: Tensor | None
    asked: Tensor
    pairs: Tensor
    agreed: int
    sites: Moments | None
    controls: Moments | None
    known: Tensor

    @property
    def predicted(self) -> Tensor:
        """Classes of all images (n,)."""
        return (self.logits if self.correction is None else self.logits + self.correction).argmax(1)


def look(
    adapted: Tensor,
    unadapted: Tensor,
    wells: Tensor | None,
    known: Tensor,
    centre: float,
    uncorrected: Tensor | None = None,
) -> Evidence:
    """What a bio-batch shows; the labels of images in question are not among the arguments.

    Sites are asked before the class mix corrects them: afterwards they would agree for that reason.
    """
    asked = known < 0
    if not asked.any():
        raise InputError("a certificate is about images of unknown class, and this bio-batch has none")
    final = log_probs(adapted)
    logits = final if uncorrected is None else log_probs(uncorrected)
    correction = None if uncorrected is None or torch.equal(adapted, uncorrected) else final - logits
    pairs, sites, controls = pairs_of(wells), None, None
    if pairs.shape[1] >= FEWEST_PAIRS:
        sites = grid_moments(pair_likelihood(logits[pairs[0]], logits[pairs[1]], LOG_T), LOG_T, centre, 1.0)
    if not asked.all():
        likelihood = label_likelihood(logits[~asked], known[~asked], LOG_T)
        controls = grid_moments(likelihood, LOG_T, centre, 1.0)
    agreed = int((final.argmax(1) == log_probs(unadapted).argmax(1))[asked].sum())
    return Evidence(logits, correction, asked, pairs, agreed, sites, controls, known)


def log_probs(logits: Tensor) -> Tensor:
    """Log-probabilities in float64, none of them infinite."""
    found = logits.double().log_softmax(1)
    if found.isnan().any():
        raise InputError("a certificate needs logits that are numbers, and one of a prediction is not")
    return found.clamp_min(-700)


def pairs_of(wells: Tensor | None) -> Tensor:
    """The first two rows of every well that has two, (2, P)."""
    rows: dict[int, list[int]] = {}
    for row, well in enumerate([] if wells is None else wells.tolist()):
        rows.setdefault(well, []).append(row)
    return torch.tensor([r[:2] for r in rows.values() if len(r) > 1], dtype=torch.long).reshape(-1, 2).T
