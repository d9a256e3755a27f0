"""What the predictions of a bio-batch are worth: accuracy, temperature, sets of classes, whether to trust.

A bio-batch has a temperature of its own, whose logarithm is t. Labelled bio-batches tell how t is spread, how
it falls with the agreement of adapted and unadapted predictions, and how far from it lies what is seen
without labels, or with those of controls. For a new bio-batch these are put together as normal distributions;
all else follows from softmax(logits / T). Tensors are on the CPU.

Letters: n images, O classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from torch import Tensor

from abra_wilds.errors import InputError
from abra_wilds.functional.calibration import (
    conformal_quantile,
    fit_temperature,
    grid_moments,
    label_likelihood,
    mass_scores,
    mass_threshold,
    random_effect,
)
from abra_wilds.tta.evidence import (
    LOG_T,
    Calibration,
    Evidence,
    Moments,
    accuracy_from,
    agreement_of,
    changed_wells,
    doubt_of_mix,
    log_probs,
    look,
    pairs_of,
    temperature_from,
    tempered,
)

SHARPNESS = torch.linspace(0.3, 1.2, 19, dtype=torch.float64)
# Priors of standard deviations, worth PRIOR_BIO_BATCHES: of t, and of what sites and controls say of it.
SPREAD, SITES_SPREAD, CONTROLS_SPREAD, PRIOR_BIO_BATCHES = 0.3, 0.15, 0.3, 4
SLOPE, SLOPE_SPREAD = -1.0, 0.7  # prior of the change of t with the share of agreement
VALIDATION_WEIGHT = 100  # images that the scores of labelled bio-batches count as beside those of controls
MOST_SCORES = 1000
WIDE = 0.5  # interval that tells nothing
MARGIN = 0.05  # accuracy that a bio-batch may lack against labelled ones before nobody trusts it
ALARM = 2.5  # standard deviations between sources that cannot both be right


@dataclass(frozen=True)
class Labelled:
    """A bio-batch that calibrates.

    Attributes:
        adapted: (n, O) logits or log-probabilities of the predictions in question.
        unadapted: (n, O) the same without adaptation.
        labels: (n,) classes.
        wells: (n,) ids; images of one well show one class. None where it is not known.
        controls: (n,) whether the class of an image will be known in bio-batches to come, or None.
        uncorrected: (n, O) `adapted` before the class mix of the bio-batch corrects it; None if it does not.
    """

    adapted: Tensor
    unadapted: Tensor
    labels: Tensor
    wells: Tensor | None = None
    controls: Tensor | None = None
    uncorrected: Tensor | None = None


@dataclass(frozen=True)
class Certificate:
    """What the adapted predictions of a bio-batch are worth, for the images whose class is not known.

    Attributes:
        n: those images.
        accuracy: estimated.
        low: end of its interval.
        high: end of its interval.
        trusted: whether nothing speaks against the predictions.
        reason: what does, one clause; empty if trusted.
        temperature: T, such that softmax(logits / T) is calibrated.
        threshold: a class is in the set of an image if its calibrated probability is this or more.
        level: of the interval and of the sets' coverage.
    """

    n: int
    accuracy: float
    low: float
    high: float
    trusted: bool
    reason: str
    temperature: float
    threshold: float
    level: float


@dataclass(frozen=True)
class _Judged:
    """A labelled bio-batch: what it shows, mean and variance of t by its labels, and these, (n,)."""

    seen: Evidence
    own: Moments
    labels: Tensor


def calibrate(bio_batches: Sequence[Labelled]) -> Calibration:
    """Learn from labelled bio-batches what a new one's predictions are worth.

    They must be new to the model, as those of val are; of training images a model is too sure. Intervals and
    sets are made on each by what the others tell, so that one bio-batch alone is judged by itself.

    Args:
        bio_batches: at least one.

    Raises:
        InputError: without a bio-batch, if one holds controls alone, or if a logit is not a number.
    """
    if not bio_batches:
        raise InputError("a certificate needs labelled bio-batches to calibrate on, and there is none")
    known = [_without(b) for b in bio_batches]
    logits = [log_probs(b.adapted) for b in bio_batches]
    asked = [(l[k < 0], b.labels[k < 0]) for l, b, k in zip(logits, bio_batches, known, strict=True)]
    pooled = _pooled(asked)
    judged = [
        _Judged(
            look(b.adapted, b.unadapted, b.wells, k, pooled, b.uncorrected),
            grid_moments(label_likelihood(l, y, LOG_T), LOG_T, pooled, 1.0),
            b.labels,
        )
        for b, k, (l, y) in zip(bio_batches, known, asked, strict=True)
    ]
    every = _fit(judged)
    squares, scores = [], []
    for i, (of_all, (_, y)) in enumerate(zip(judged, asked, strict=True)):
        fit, seen = _fit(judged[:i] + judged[i + 1 :]) if len(judged) > 1 else every, of_all.seen
        t, variance = temperature_from(fit, seen)
        accuracy, error = accuracy_from(fit, seen, t, variance)
        right = (seen.predicted == of_all.labels)[seen.asked].double().mean()
        squares.append(((accuracy - float(right)) / error) ** 2)
        scores.append(mass_scores(tempered(fit, seen, t)[1][seen.asked], y))
    inflation = math.sqrt((PRIOR_BIO_BATCHES + sum(squares)) / (PRIOR_BIO_BATCHES + len(squares)))
    ordered = torch.cat(scores).sort().values
    if len(ordered) > MOST_SCORES:
        ordered = ordered.quantile((torch.arange(MOST_SCORES, dtype=torch.float64) + 0.5) / MOST_SCORES)
    changes = [_changes(b, k < 0) for b, k in zip(bio_batches, known, strict=True)]
    gained, lost, *wells = (sum(of) for of in zip(*changes, strict=True))
    joined, joined_right, parted, parted_right = wells
    return replace(
        every,
        inflation=max(inflation, 1.0),
        scores=tuple(ordered.tolist()),
        gained=gained,
        lost=lost,
        joined_right=(joined_right + 1) / (joined + 2),
        parted_right=(parted_right + 1) / (parted + 2),
    )


def _changes(b: Labelled, asked: Tensor) -> tuple[int, ...]:
    """Images in question that adaptation sets right, and wrong; wells that it makes agree, and no more.

    After each number of wells comes how many of them are right.
    """
    before, after = b.unadapted.argmax(1), b.adapted.argmax(1)
    was, now = ((z == b.labels)[asked] for z in (before, after))
    pairs = pairs_of(b.wells)
    joined, parted = changed_wells(before, after, pairs[:, asked[pairs[0]]])
    return (
        *(int((now & ~was).sum()), int((was & ~now).sum())),
        *(len(joined), int((after == b.labels)[joined].sum())),
        *(len(parted), int((before == b.labels)[parted].sum())),
    )


def _without(b: Labelled) -> Tensor:
    """The labels of controls, -1 for other images."""
    nothing = torch.full_like(b.labels, -1)
    return nothing if b.controls is None else b.labels.where(b.controls, nothing)


def _pooled(parts: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The logarithm of the one temperature of (logits, labels) of several bio-batches."""
    return math.log(fit_temperature(torch.cat([l for l, _ in parts]), torch.cat([y for _, y in parts])))


def certify(
    calibration: Calibration,
    adapted: Tensor,
    unadapted: Tensor,
    wells: Tensor | None = None,
    known: Tensor | None = None,
    *,
    uncorrected: Tensor | None = None,
    level: float = 0.9,
    least: float | None = None,
) -> Certificate:
    """Judge the adapted predictions of a bio-batch without labels, or with those of its controls alone.

    Args:
        calibration: from `calibrate`.
        adapted: (n, O) logits or log-probabilities.
        unadapted: (n, O).
        wells: (n,) ids; images of one well show one class. None where it is not known.
        known: (n,) classes of controls, -1 for the images in question; None without controls.
        uncorrected: (n, O) `adapted` before the class mix corrects it; None if it does not.
        level: of the interval and of the sets' coverage.
        least: accuracy below which predictions are of no use; if None, MARGIN below that of labelled images.

    Raises:
        InputError: if no class is in question, or a logit is not a number.
    """
    known = torch.full((len(adapted),), -1) if known is None else known
    seen = look(adapted, unadapted, wells, known, calibration.centre, uncorrected)
    t, variance = temperature_from(calibration, seen)
    accuracy, error = accuracy_from(calibration, seen, t, variance)
    half = NormalDist().inv_cdf((1 + level) / 2) * error * calibration.inflation
    low, high = max(accuracy - half, 0.0), min(accuracy + half, 1.0)
    least = calibration.accuracy - MARGIN if least is None else least
    reason = _reason(calibration, seen, (low, high), least)
    if high - low > WIDE and not reason:
        reason = _wide(calibration, seen, t, error)
    T, probs = tempered(calibration, seen, t)
    return Certificate(
        n=int(seen.asked.sum()),
        accuracy=accuracy,
        low=low,
        high=high,
        trusted=not reason,
        reason=reason,
        temperature=T,
        threshold=mass_threshold(probs[seen.asked], _mass(calibration, seen, probs, level)),
        level=level,
    )


def conformal_sets(log_probs: Tensor, threshold: float) -> Tensor:
    """Which classes are in each image's set, (n, O) of bool.

    Args:
        log_probs: (n, O) calibrated: log_softmax(logits / temperature) of the certificate.
        threshold: the certificate's.
    """
    rounding = 1e-6  # of float32, for the class that makes the threshold
    return log_probs.double().exp() >= threshold * (1 - rounding)


def _fit(judged: Sequence[_Judged]) -> Calibration:
    """A calibration without what needs bio-batches left out."""
    agreed, n = sum(j.seen.agreed for j in judged), sum(int(j.seen.asked.sum()) for j in judged)
    agreement = (agreed + 1) / (n + 2)
    x, own = [agreement_of(j.seen, agreement) for j in judged], [j.own for j in judged]
    centre = _pooled([(j.seen.corrected[j.seen.asked], j.labels[j.seen.asked]) for j in judged])
    _, slope, variance = random_effect(
        own, x, slope=(SLOPE, SLOPE_SPREAD), prior=(SPREAD, PRIOR_BIO_BATCHES), intercept=centre
    )
    hits = sum(int((j.seen.predicted == j.labels)[j.seen.asked].sum()) for j in judged)
    return Calibration(
        centre,
        agreement,
        slope,
        variance,
        sites=_source([(j.seen.sites, j.own) for j in judged], SITES_SPREAD),
        controls=_source([(j.seen.controls, j.own) for j in judged], CONTROLS_SPREAD),
        sharpness=_sharpness(judged),
        inflation=1.0,
        accuracy=hits / n,
        scores=(),
        belief=_belief(judged),
    )


def _belief(judged: Sequence[_Judged]) -> float:
    """The weight of what the class mix has corrected that makes labels likeliest, by EM over all images.

    One bio-batch in which it is 1 and one in which it is 0 are added, so that without any it is one half.
    """
    of = [j for j in judged if j.seen.correction is not None]
    if not of:
        return 0.5
    before, after = (
        torch.cat([_of_label(j, z) for j, z in parts])
        for parts in ([(j, j.seen.logits) for j in of], [(j, j.seen.corrected) for j in of])
    )
    w = 0.5
    for _ in range(100):
        w = float((w * after / (w * after + (1 - w) * before)).mean())
    return (1 + len(of) * w) / (2 + len(of))


def _of_label(j: _Judged, logits: Tensor) -> Tensor:
    """Probabilities of the labels of images in question, by the bio-batch's own temperature."""
    return (logits / math.exp(j.own[0])).softmax(1).gather(1, j.labels[:, None])[j.seen.asked, 0]


def _source(found: Sequence[tuple[Moments | None, Moments]], spread: float) -> Moments | None:
    """How far above t lies what is seen of it, from (seen, by labels) of each bio-batch."""
    gaps = [(s[0] - o[0], s[1] + o[1]) for s, o in found if s]
    if not gaps:
        return None
    prior = (spread, PRIOR_BIO_BATCHES)
    offset, _, variance = random_effect(gaps, [0.0] * len(gaps), slope=(0, 1), prior=prior)
    return offset, variance


def _sharpness(judged: Sequence[_Judged]) -> float:
    """The weight of two sites' logits that makes the posterior of their well likeliest."""
    y, both = [], []
    for one in judged:
        i, j = one.seen.pairs[:, one.seen.asked[one.seen.pairs[0]]]
        y.append(one.labels[i])
        both.append((one.seen.logits[i] + one.seen.logits[j]) / math.exp(one.own[0]))
    if not any(map(len, y)):
        return 0.5
    likelihood = label_likelihood(torch.cat(both), torch.cat(y), -SHARPNESS.log())
    return float(SHARPNESS[likelihood.argmax()])


def _mass(calibration: Calibration, seen: Evidence, probs: Tensor, level: float) -> float:
    """The mass of sets: the conformal quantile of scores of labelled bio-batches and of controls."""
    scores = torch.tensor(calibration.scores, dtype=torch.float64)
    if seen.asked.all():
        return conformal_quantile(scores, level)
    own = mass_scores(probs[~seen.asked], seen.known[~seen.asked])
    weights = torch.full_like(scores, VALIDATION_WEIGHT / len(scores))
    return conformal_quantile(torch.cat([scores, own]), level, torch.cat([weights, torch.ones_like(own)]))


def _wide(calibration: Calibration, seen: Evidence, t: float, error: float) -> str:
    """What makes most of a standard error that tells nothing, one clause."""
    n = int(seen.asked.sum())
    if doubt_of_mix(calibration, seen, t) ** 2 > error**2 / 2:
        return "its images look like few classes, which may be wrong"
    if 0.25 / n > error**2 / 2:  # as n coins
        return f"{n} images are too few to tell"
    return "the labelled bio-batches are too few, or too unlike one another, to tell"


def _reason(calibration: Calibration, seen: Evidence, interval: tuple[float, float], least: float) -> str:
    """What speaks against the predictions, one clause, or nothing."""
    if calibration.controls and seen.controls:
        t, variance = temperature_from(calibration, seen, controls=False)
        gap = seen.controls[0] - calibration.controls[0] - t
        if gap > ALARM * math.sqrt(variance + calibration.controls[1] + seen.controls[1]):
            right = (seen.predicted == seen.known)[~seen.asked]
            return f"controls are worse than all else says: {int(right.sum())} of {len(right)} are right"
    if interval[1] < least:
        return f"at most {interval[1]:.0%} of its predictions are right, less than {least:.0%}"
    return ""
