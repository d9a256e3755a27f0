"""What a bio-batch shows of its predictions, their temperature and accuracy, without the labels in question.

Letters: n images, O classes, P wells of two sites; t is the logarithm of a temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from abra_wilds.errors import InputError
from abra_wilds.functional.calibration import grid_moments, label_likelihood, pair_likelihood, temperature_of

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
    def corrected(self) -> Tensor:
        """Log-probabilities (n, O) of all images as they are predicted."""
        return self.logits if self.correction is None else self.logits + self.correction

    @property
    def predicted(self) -> Tensor:
        """Classes of all images (n,)."""
        return self.corrected.argmax(1)


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


def changed_wells(before: Tensor, after: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Wells whose sites agree on a class with adaptation alone, and without it alone: a row of each.

    Args:
        before: (n,) classes without adaptation.
        after: (n,) with it.
        pairs: (2, P) rows of two sites of a well.
    """
    i, j = pairs
    was, now = before[i] == before[j], after[i] == after[j]
    kept = was & now & (before[i] == after[i])
    return i[now & ~kept], i[was & ~kept]


@dataclass(frozen=True)
class Calibration:
    """What labelled bio-batches tell of new ones, as plain numbers: what JSON gives back serves as well.

    Attributes:
        centre: t where adapted and unadapted predictions agree as usual; that of all labelled images.
        agreement: the usual share of agreement.
        slope: change of t with that share.
        variance: of t around that.
        sites: how far above t lies what sites of wells say of it, and the variance of that; None without.
        controls: the same of controls.
        sharpness: weight of the logits of each of two sites in the posterior of their well.
        inflation: of standard errors, so that errors on labelled bio-batches left out are of their size.
        accuracy: of all labelled images but controls.
        scores: at most MOST_SCORES mass scores of labelled images of bio-batches left out, in order.
        gained: labelled images but controls that adaptation sets right.
        lost: those that it sets wrong.
        joined_right: share of wells in which adaptation makes both sites right, of those that it makes agree.
        parted_right: share of wells in which both sites were right, of those that it makes agree no more.
        belief: probability that a class mix which corrects predictions is right.
    """

    centre: float
    agreement: float
    slope: float
    variance: float
    sites: Moments | None
    controls: Moments | None
    sharpness: float
    inflation: float
    accuracy: float
    scores: tuple[float, ...]
    gained: int = 0
    lost: int = 0
    joined_right: float = 0.5
    parted_right: float = 0.5
    belief: float = 0.5


def agreement_of(seen: Evidence, usual: float) -> float:
    """Share of agreement less the usual one; images are counted with two that agree as usual."""
    return (seen.agreed + 2 * usual) / (int(seen.asked.sum()) + 2) - usual


def temperature_from(
    calibration: Calibration, seen: Evidence, *, controls: bool = True
) -> tuple[float, float]:
    """Mean and variance of t by all that a bio-batch shows, with or without its controls."""
    c = calibration
    mean = c.centre + c.slope * agreement_of(seen, c.agreement)
    weight, total = 1 / c.variance, mean / c.variance
    for source, found in ((c.sites, seen.sites), (c.controls if controls else None, seen.controls)):
        if source and found:
            w = 1 / (source[1] + found[1])
            weight, total = weight + w, total + w * (found[0] - source[0])
    return total / weight, 1 / weight


def accuracy_from(calibration: Calibration, seen: Evidence, t: float, variance: float) -> tuple[float, float]:
    """Estimated accuracy of the images in question and its standard error."""
    here, error = _confidence(calibration, seen, t), math.sqrt(variance)
    up, down = (_confidence(calibration, seen, t + sign * error).mean() for sign in (1, -1))
    coins = float((here * (1 - here)).sum()) + 0.25  # one more of even odds: no prediction is certain
    squares = float((up - down) / 2) ** 2 + coins / len(here) ** 2 + doubt_of_mix(calibration, seen, t) ** 2
    return float(here.mean()), math.sqrt(squares)


def doubt_of_mix(calibration: Calibration, seen: Evidence, t: float) -> float:
    """Standard deviation of the accuracy from whether the class mix is believed."""
    if seen.correction is None:
        return 0.0
    sure, unsure = (
        float(_confidence(replace(calibration, belief=belief), seen, t).mean()) for belief in (1.0, 0.0)
    )
    return abs(sure - unsure) * math.sqrt(calibration.belief * (1 - calibration.belief))


def _confidence(calibration: Calibration, seen: Evidence, t: float) -> Tensor:
    """Probability that each prediction in question is right, by its well where that has two sites, (n,)."""
    joint = believed(calibration, seen, t)
    i, j = seen.pairs
    if calibration.sites and seen.sites:
        joint[i] = joint[j] = believed(calibration, seen, t, pairs=True)
    return joint.gather(1, seen.predicted[:, None])[seen.asked, 0]


def believed(calibration: Calibration, seen: Evidence, t: float, pairs: bool = False) -> Tensor:
    """Probabilities of images (n, O), or of the wells of pairs (P, O); corrected ones as far as believed."""
    i, j = seen.pairs
    before, after = (
        (calibration.sharpness * (z[i] + z[j]) if pairs else z) / math.exp(t)
        for z in (seen.logits, seen.corrected)
    )
    return torch.lerp(before.softmax(1), after.softmax(1), calibration.belief)


def tempered(calibration: Calibration, seen: Evidence, t: float) -> tuple[float, Tensor]:
    """The temperature that makes predictions as sure as belief leaves them, and probabilities (n, O)."""
    T = math.exp(t)
    if seen.correction is not None:
        sure = believed(calibration, seen, t).gather(1, seen.predicted[:, None])[seen.asked]
        T = temperature_of(seen.corrected[seen.asked], float(sure.mean()))
    return T, (seen.corrected / T).softmax(1)
