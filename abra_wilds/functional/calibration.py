"""How far predicted probabilities can be believed: temperatures, estimates of accuracy, sets of classes.

Letters: N images, O classes, G temperatures of a grid. Everything is computed in float64, on numbers that a
bio-batch has thousands of at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def fit_temperature(logits: Tensor, y: Tensor, bounds: tuple[float, float] = (0.05, 20.0)) -> float:
    """The temperature T of least cross-entropy of softmax(logits / T) (Guo et al. 2017, arXiv 1706.04599).

    The cross-entropy is convex in 1 / T, so the sign of its slope decides each halving of the interval.

    Args:
        logits: (N, O), or log-probabilities.
        y: (N,) classes.
        bounds: where T is sought.
    """
    l = logits.double()

    def too_sharp(beta: float) -> bool:
        excess = (l * (beta * l).softmax(1)).sum(1) - l.gather(1, y[:, None])[:, 0]
        return bool(excess.mean() > 0)

    return _by_halving(too_sharp, bounds)


def temperature_of(logits: Tensor, confidence: float, bounds: tuple[float, float] = (0.05, 20.0)) -> float:
    """The temperature T at which the mean of the largest probability of softmax(logits / T) is this.

    Args:
        logits: (N, O).
        confidence: between 0 and 1; out of reach, the end of the bounds that is nearer.
        bounds: where T is sought.
    """
    l = logits.double()
    return _by_halving(lambda beta: bool((beta * l).softmax(1).amax(1).mean() > confidence), bounds)


def _by_halving(too_sharp: Callable[[float], bool], bounds: tuple[float, float]) -> float:
    """The temperature T above which 1 / T is not too sharp, by halving the interval of its logarithm."""
    low, high = 1 / bounds[1], 1 / bounds[0]
    for _ in range(60):
        beta = math.sqrt(low * high)
        low, high = (low, beta) if too_sharp(beta) else (beta, high)
    return 1 / math.sqrt(low * high)


def label_likelihood(logits: Tensor, y: Tensor, log_T: Tensor) -> Tensor:
    """Log likelihood of the labels at each temperature, (G,).

    Args:
        logits: (N, O).
        y: (N,) classes.
        log_T: (G,) logarithms of temperatures.
    """
    tempered = (F.cross_entropy(logits.double() / T, y, reduction="sum") for T in log_T.double().exp())
    return -torch.stack(list(tempered))


def pair_likelihood(first: Tensor, second: Tensor, log_T: Tensor) -> Tensor:
    """Log likelihood at each temperature that each two images show one class, which is not known, (G,).

    If views are independent given the class, the density of a pair over that of two strangers is
    sum_c p_1(c) p_2(c) / pi(c), pi being the mean of the p. It is largest for the temperature whose
    probabilities agree between views as often as they promise. Sites of a well share more than the class, so
    that it comes out too low, by a factor that labelled bio-batches tell.

    Args:
        first: (N, O) logits of one image of each pair.
        second: (N, O) logits of the other.
        log_T: (G,) logarithms of temperatures.
    """
    found = []
    for T in log_T.double().exp():
        p, q = (first.double() / T).softmax(1), (second.double() / T).softmax(1)  # (N, O)
        pi = (p.mean(0) + q.mean(0)) / 2  # (O,)
        found.append((p * q / pi.clamp_min(1e-300)).sum(1).log().sum())
    return torch.stack(found)


def grid_moments(log_likelihood: Tensor, log_T: Tensor, centre: float, spread: float) -> tuple[float, float]:
    """Mean and variance of log T after evidence, from a normal prior, by summation over a grid.

    Args:
        log_likelihood: (G,).
        log_T: (G,), evenly spaced.
        centre: mean of the prior.
        spread: its standard deviation.
    """
    t = log_T.double()
    w = (log_likelihood - ((t - centre) / spread) ** 2 / 2).softmax(0)  # (G,)
    mean = (w * t).sum()
    return float(mean), float((w * (t - mean) ** 2).sum())


def random_effect(
    values: Sequence[tuple[float, float]],
    x: Sequence[float],
    *,
    slope: tuple[float, float],
    prior: tuple[float, float],
    intercept: float | None = None,
) -> tuple[float, float, float]:
    """Intercept, slope and variance of u in values = m + b x + u + e, e being of known variance, by EM.

    Args:
        values: (mean, variance of e) of each bio-batch.
        x: of each.
        slope: mean and standard deviation of the normal prior of b.
        prior: standard deviation of u before anything is seen, and how many bio-batches that is worth.
        intercept: m where it is known.
    """
    value, error = torch.tensor(values, dtype=torch.float64).T
    at = torch.tensor(x, dtype=torch.float64)
    spread, worth = prior
    m, b, var = float(value.mean()) if intercept is None else intercept, slope[0], spread**2
    for _ in range(100):
        w = 1 / (var + error)
        if intercept is None:
            m = float((w * (value - b * at)).sum() / w.sum())
        b = float((w * at * (value - m)).sum() + slope[0] / slope[1] ** 2)
        b /= float((w * at**2).sum()) + slope[1] ** -2
        squares = (var * w * (value - m - b * at)) ** 2 + var * error * w  # expected u^2
        var = float(worth * spread**2 + squares.sum()) / (worth + len(value))
    return m, b, var


def atc_threshold(confidence: Tensor, correct: Tensor) -> float:
    """The confidence that as large a share reaches as is right (ATC, Garg et al. 2022, arXiv 2201.04234).

    On other images the share that reaches it is the estimate of accuracy.

    Args:
        confidence: (N,) largest probabilities of labelled images.
        correct: (N,) whether their predictions are right.
    """
    wrong = len(correct) - int(correct.sum())
    return float("inf") if wrong == len(correct) else float(confidence.sort().values[wrong])


def difference_of_confidences(confidence: Tensor, correct: Tensor, new: Tensor) -> float:
    """The accuracy of labelled images less their fall in confidence (DoC, Guillory et al. 2021, 2107.03315).

    Args:
        confidence: (N,) largest probabilities of labelled images.
        correct: (N,) whether their predictions are right.
        new: (M,) largest probabilities of the images in question.
    """
    return float(correct.double().mean() - confidence.double().mean() + new.double().mean())


def conformal_quantile(scores: Tensor, level: float, weights: Tensor | None = None) -> float:
    """The least score that a new one stays at or below with probability `level`; infinite if N is too small.

    The new score counts as one that may be the largest, which is the finite-sample correction: with equal
    weights it is the ceil((N + 1) level)-th smallest. Weights are as in Tibshirani et al. 2019 (arXiv
    1904.06019), in units of the new score's.

    Args:
        scores: (N,).
        level: between 0 and 1.
        weights: (N,), or None for 1 each.
    """
    order = scores.argsort()
    w = torch.ones(len(scores), dtype=torch.float64) if weights is None else weights.double()[order]
    enough = w.cumsum(0) >= level * (w.sum() + 1) - 1e-9
    return float(scores[order][enough][0]) if enough.any() else float("inf")


def mass_scores(probs: Tensor, y: Tensor) -> Tensor:
    """Share of the images' probability in all pairs of image and class no less likely than (i, y_i), (N,).

    A set of all pairs up to a mass v has expected coverage v if the probabilities are calibrated, whatever
    the bio-batch; so these scores compare between bio-batches of different difficulty. 1 - p(y) (LAC, Sadinle
    et al. 2019, arXiv 1609.00451) orders pairs alike, but does not compare.

    Args:
        probs: (N, O).
        y: (N,) classes.
    """
    ordered = probs.double().flatten().sort(descending=True).values
    reached = torch.searchsorted(-ordered, -probs.double().gather(1, y[:, None])[:, 0], right=True)
    return (ordered.cumsum(0) / len(probs))[reached - 1]


def mass_threshold(probs: Tensor, mass: float) -> float:
    """The largest p such that the pairs of image and class of probability p or more have this mass an image.

    Args:
        probs: (N, O).
        mass: 0 to 1; what rounding or an infinite quantile puts above takes all classes.
    """
    ordered = probs.double().flatten().sort(descending=True).values
    enough = ordered.cumsum(0) >= mass * len(probs)
    return float(ordered[enough][0]) if mass < 1 and enough.any() else 0.0
