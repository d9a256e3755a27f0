"""Embeddings aligned on control wells, which show the same in every experiment.

All controls count (data/controls.py): of RxRx1's 31 on every plate 30 are positive controls, and the one
untreated well a plate would be too few to estimate a spread from. No label but that of the controls is read.

Letters: n sites, m of them of controls, E experiments, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma
from sklearn.covariance import ledoit_wolf_shrinkage

from abra_wilds.errors import InputError

Floats = NDArray[np.floating]
Names = NDArray[np.object_]
Mask = NDArray[np.bool_]
# Of an experiment; RxRx1-WILDS has about 124 in each split of a training experiment, 248 of any other.
LEAST_CONTROLS = 8
# Of an experiment: halves of halves, so that what is fitted, learned and asked never share a well.
LEAST_WELLS = 4


@dataclass(frozen=True)
class Controls:
    """What control sites say of each experiment.

    Attributes:
        n: (E,) their number.
        mean: (E, D).
        var: (E, D) around the own mean, divided by n - 1.
        overall: (D,) the mean of all.
        pooled: (D,) the variance around each experiment's own mean, divided by m - E.
    """

    n: NDArray[np.int64]
    mean: Floats
    var: Floats
    overall: Floats
    pooled: Floats


def controls_by_experiment(x: Floats, code: NDArray[np.int64]) -> Controls:
    """The moments of control sites x (m, D) of experiments code (m,), numbered from 0."""
    n = np.bincount(code)
    mean = np.stack([x[code == e].mean(0) for e in range(len(n))])
    var = np.stack([x[code == e].var(0, ddof=1) for e in range(len(n))])
    pooled = (n - 1) @ var / (len(x) - len(n))
    return Controls(n, mean, var, n @ mean / len(x), pooled)


def share_kept(found: Floats, noise: Floats) -> Floats:
    """The positive part of 1 - noise / found, (E,): how much of a deviation is more than chance.

    It is the factor of James and Stein (1961), by which a deviation shrinks, with the squared deviation
    that was found and what sampling alone would give; 0 where nothing deviates.
    """
    ratio = np.divide(noise, found, out=np.ones_like(found), where=found > 0)
    kept: Floats = np.clip(1 - ratio, 0, 1)
    return kept


def means_kept(c: Controls) -> Floats:
    """How much of each experiment's shift counts, (E,).

    A mean of n of m sites deviates from that of all by pooled * (1 / n - 1 / m) if experiments are alike.
    """
    alive = c.pooled > 0
    z = (c.mean - c.overall)[:, alive] ** 2 / c.pooled[alive]
    return share_kept(z.mean(1) if alive.any() else np.zeros(len(c.n)), 1 / c.n - 1 / c.n.sum())


def shrunk_scales(c: Controls) -> Floats:
    """Each experiment's standard deviation of a feature over that of all, (E, D), shrunk.

    Log variances shrink towards the mean of the experiment's, as in limma (Smyth 2004, doi
    10.2202/1544-6115.1027), so that a change of all features stays and that of a single one must be more
    than chance. If experiments are alike, an experiment's share of the sum of squares is a Beta variable,
    whose logarithm has the moments below; normal features are assumed.
    """
    a, ab = (c.n - 1) / 2, (c.n.sum() - len(c.n)) / 2
    seen = (c.pooled > c.pooled.max() * c.n.sum() * np.finfo(c.pooled.dtype).eps) & (c.var > 0).all(0)
    ratios = np.zeros(c.var.shape)
    if not seen.any():
        return np.exp(ratios)
    logs = np.log(c.var[:, seen] / c.pooled[seen])
    logs -= (digamma(a) - np.log(a) - digamma(ab) + np.log(ab))[:, None]
    centre = logs.mean(1, keepdims=True)
    kept = share_kept(logs.var(1), polygamma(1, a) - polygamma(1, ab))
    ratios += centre
    ratios[:, seen] += kept[:, None] * (logs - centre)
    return np.exp(ratios / 2)


def aligned(features: Floats, code: NDArray[np.int64], c: Controls, kept: Floats, variance: Floats) -> Floats:
    """Features (n, D) of experiments code (n,) after shrunk shift and scale.

    A variance (D,) of 0 divides by 1.
    """
    deviation = np.sqrt(np.where(variance > 0, variance, 1))
    centre, scale = c.overall + kept[:, None] * (c.mean - c.overall), shrunk_scales(c) * deviation
    return (features - centre[code]) / scale[code]


def centerscale(features: Floats, batch: Names, is_control: Mask) -> Floats:
    """Each feature minus the mean, over the standard deviation, of its experiment's control sites, shrunk.

    Means shrink towards that of all experiments (`means_kept`), deviations towards the pooled one
    (`shrunk_scales`), by what chance would give controls of this number: unshrunk, 8 controls of 512
    features give each experiment an offset that a classifier finds without fail in pure noise. A feature
    that is the same in all controls is only centred.

    Args:
        features: (n, D).
        batch: (n,) the experiment of each site.
        is_control: (n,).
    """
    code = np.unique(batch, return_inverse=True)[1]
    c = controls_by_experiment(features[is_control], code[is_control])
    return aligned(features, code, c, means_kept(c), c.pooled)


def tvn(features: Floats, batch: Names, is_control: Mask) -> Floats:
    """Typical variation normalisation (Ando et al. 2017, bioRxiv 161422): `centerscale` along control axes.

    The axes are the principal components of the controls of all experiments together; each is brought to
    the same spread, so that what varies among controls counts less. Variances along them are those of
    Ledoit and Wolf (2004, doi 10.1016/S0047-259X(03)00096-4): moved towards their mean, the more so the fewer
    controls there are, since sample variances of 16 controls leave most of 512 axes without any. How much of
    a shift is real is asked before the axes are turned towards the controls. The paper's further step, which
    aligns each experiment's covariance of controls, is left out, as it is in the recipe that Recursion gives
    with OpenPhenom.

    Args:
        features: (n, D).
        batch: (n,) the experiment of each site.
        is_control: (n,).

    Returns:
        (n, D), by falling variance among controls.
    """
    code = np.unique(batch, return_inverse=True)[1]
    controls = features[is_control]
    kept = means_kept(controls_by_experiment(controls, code[is_control]))
    axes = np.linalg.eigh(np.cov(controls, rowvar=False).reshape(len(controls[0]), -1))[1][:, ::-1]
    turned = (features - controls.mean(0)) @ axes
    c = controls_by_experiment(turned[is_control], code[is_control])
    rest = turned[is_control] - c.mean[code[is_control]]
    a = float(ledoit_wolf_shrinkage(rest, assume_centered=True))
    return aligned(turned, code, c, kept, (1 - a) * c.pooled + a * c.pooled.mean())


POSTPROCESS: dict[str, Callable[[Floats, Names, Mask], Floats]] = {
    "none": lambda features, batch, is_control: features,
    "centerscale": centerscale,
    "tvn": tvn,
}


def postprocessed(
    name: str, features: NDArray[np.float32], batch: Names, is_control: Mask
) -> NDArray[np.float32]:
    """Features (n, D) after the step of a name in POSTPROCESS, computed in float64."""
    return POSTPROCESS[name](features.astype(np.float64), batch, is_control).astype(np.float32)


def check_controls(
    name: str, batch: Names, is_control: Mask | None, well: NDArray[np.int64] | None = None
) -> None:
    """Raise where there are too few controls to align on and to check it.

    Args:
        name: a key of POSTPROCESS.
        batch: (n,) the experiment of each site.
        is_control: (n,), or None if it is not known.
        well: (n,) the number of its well; None where each site is one.

    Raises:
        InputError: with the numbers.
    """
    if name == "none":
        return
    if is_control is None:
        raise InputError(
            f"--postprocess {name} aligns experiments on their control wells, and nothing says which wells "
            "those are; add the column well_type to the metadata, or leave it out"
        )
    wells = np.arange(len(batch)) if well is None else well
    for experiment in np.unique(batch):
        own = wells[is_control & (batch == experiment)]
        n, n_wells = len(own), len(np.unique(own))
        if n < LEAST_CONTROLS or n_wells < LEAST_WELLS:
            raise InputError(
                f"--postprocess {name} takes mean and spread of {LEAST_CONTROLS} or more images, of "
                f"{LEAST_WELLS} or more control wells of each experiment, and {experiment} has {n} images of "
                f"{n_wells} in these splits; add splits, or leave it out"
            )
