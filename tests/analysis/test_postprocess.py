"""Alignment on controls against sums written out, and against eigenvectors of the controls' covariance."""

import math
import statistics

import numpy as np
import pytest
from scipy.stats import beta

from abra_wilds.analysis.postprocess import (
    centerscale,
    check_controls,
    controls_by_experiment,
    means_kept,
    postprocessed,
    shrunk_scales,
    tvn,
)
from abra_wilds.errors import InputError


@pytest.fixture
def screen():
    """(features, batch, is_control): three experiments that differ in place and scale, rows in no order."""
    rng = np.random.default_rng(0)
    batch = rng.permutation(np.repeat(np.array(["A", "B", "C"], dtype=object), 40))
    is_control = rng.random(120) < 0.4
    place, scale = ({"A": a, "B": b, "C": c} for a, b, c in ([0, 3, -2], [1, 2, 0.5]))
    mixing = rng.normal(size=(6, 6))
    f = np.stack([place[b] + scale[b] * rng.normal(size=6) @ mixing for b in batch])
    return f.astype(np.float32), batch, is_control


def slow_aligned(f, batch, is_control, kept=None, floor=0.0):
    """Shrunk shift and scale, one number after the other: (kept, aligned); floor is of pooled variances."""
    names, D = sorted(set(batch)), f.shape[1]
    own = {b: [i for i in range(len(f)) if batch[i] == b and is_control[i]] for b in names}
    n, m, E = {b: len(rows) for b, rows in own.items()}, sum(map(len, own.values())), len(names)
    mean = {b: [sum(f[i, d] for i in own[b]) / n[b] for d in range(D)] for b in names}
    squares = {b: [sum((f[i, d] - mean[b][d]) ** 2 for i in own[b]) for d in range(D)] for b in names}
    overall = [sum(n[b] * mean[b][d] for b in names) / m for d in range(D)]
    pooled = [sum(squares[b][d] for b in names) / (m - E) for d in range(D)]
    alive = [d for d in range(D) if pooled[d] > 1e-9]
    ours = {}
    logs = {b: [] for b in names}
    for b in names:
        z = statistics.fmean((mean[b][d] - overall[d]) ** 2 / pooled[d] for d in alive)
        ours[b] = max(0, 1 - (1 / n[b] - 1 / m) / z)
        share = beta((n[b] - 1) / 2, (m - E - n[b] + 1) / 2)  # of the sum of squares, if all are alike
        moments = [share.expect(lambda x, k=k: np.log(x) ** k) for k in (1, 2)]
        logs[b] = [math.log(squares[b][d] / (pooled[d] * (m - E))) - moments[0] for d in alive]
        noise, centre = moments[1] - moments[0] ** 2, statistics.fmean(logs[b])
        share_kept = max(0, 1 - noise / statistics.pvariance(logs[b]))
        logs[b] = [centre + share_kept * (v - centre) for v in logs[b]]
    out = np.zeros(f.shape)
    for i in range(len(f)):
        b = batch[i]
        for d in range(D):
            place = overall[d] + (kept or ours)[b] * (mean[b][d] - overall[d])
            change = logs[b][alive.index(d)] if d in alive else statistics.fmean(logs[b])
            spread = (1 - floor) * pooled[d] + floor * sum(pooled) / D
            out[i, d] = (f[i, d] - place) / math.sqrt((spread if spread > 1e-9 else 1) * math.exp(change))
    return ours, out


def test_centerscale_is_each_experiments_shrunk_standardisation_on_its_controls(screen):
    f, batch, is_control = screen
    f[:, 2] = 7  # a dead feature
    kept, expected = slow_aligned(f.astype(np.float64), batch, is_control)
    assert 0.5 < max(kept.values()) < 1
    np.testing.assert_allclose(postprocessed("centerscale", f, batch, is_control), expected, atol=1e-5)


def test_tvn_is_that_along_eigenvectors_of_the_controls_with_ledoit_and_wolfs_variances(screen):
    f, batch, is_control = screen
    f = f.astype(np.float64)
    controls = f[is_control]
    values, vectors = np.linalg.eigh(np.cov(controls.T))
    axes = (f - controls.mean(0)) @ vectors[:, np.argsort(values)[::-1]]
    residuals = controls.copy()
    for name in "ABC":
        residuals[batch[is_control] == name] -= controls[batch[is_control] == name].mean(0)
    kept, _ = slow_aligned(f, batch, is_control)
    _, expected = slow_aligned(axes, batch, is_control, kept, slow_ledoit_wolf(residuals))
    found = postprocessed("tvn", f, batch, is_control)
    signs = np.sign((found * expected).sum(0))  # which way an axis points is free
    np.testing.assert_allclose(found * signs, expected, atol=1e-4)


def slow_ledoit_wolf(x):
    """Their b, d and S of rows x (n, D) around 0: how far the covariance moves to a multiple of 1."""
    n, D = x.shape
    S = sum(np.outer(row, row) for row in x) / n
    target = np.trace(S) / D * np.eye(D)
    d = ((S - target) ** 2).sum() / D
    b = sum(((np.outer(row, row) - S) ** 2).sum() / D for row in x) / n**2
    return min(b, d) / d


@pytest.mark.parametrize("name", ["centerscale", "tvn"])
def test_with_many_controls_a_known_shift_and_scale_of_experiments_is_undone(name):
    """Closed form: what is left of shift and scale is the error of means and deviations of n controls."""
    rng = np.random.default_rng(2)
    n, D = 2000, 20
    batch = np.repeat(np.array(["A", "B", "C"], dtype=object), 2 * n)
    is_control = np.tile(np.arange(2 * n) < n, 3)
    pure = rng.normal(size=(6 * n, D))
    code = np.repeat(np.arange(3), 2 * n)
    shift, scale = rng.normal(size=(3, D)), rng.uniform(0.5, 2, (3, D))
    found = postprocessed(name, shift[code] + scale[code] * pure, batch, is_control)
    for experiment in "ABC":
        own = found[(batch == experiment) & ~is_control].astype(np.float64)
        assert np.abs(own.mean(0)).max() < 5 * (2 / n) ** 0.5
        covariance = np.cov(own.T) - (np.eye(D) if name == "centerscale" else 0)
        assert name == "tvn" or np.abs(covariance).max() < 5 * (4 / n) ** 0.5


def test_few_controls_without_an_effect_leave_means_and_scales_almost_alone():
    rng = np.random.default_rng(0)
    n, D = 8, 512
    batch = np.repeat(np.array(["A", "B"], dtype=object), n)
    c = controls_by_experiment(rng.normal(size=(2 * n, D)), np.repeat([0, 1], n))
    assert means_kept(c).max() < 3 * (2 / D) ** 0.5, "three deviations of a mean of D squared normals"
    assert np.abs(np.log(shrunk_scales(c))).max() < 0.2 < np.abs(np.log(c.var / c.pooled)).max() / 2
    everything = np.ones(2 * n, dtype=bool)
    alone = centerscale(rng.normal(size=(n, 3)), batch[:n], everything[:n])
    np.testing.assert_allclose(alone.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(alone.std(0, ddof=1), 1, atol=1e-12)


def test_axes_without_variance_among_controls_stay_finite(screen):
    f, batch, is_control = screen
    doubled = np.concatenate([f, f, np.ones((len(f), 1))], axis=1).astype(np.float64)
    found = tvn(doubled, batch, is_control)
    np.testing.assert_allclose(found[:, 6:], 0, atol=1e-6)
    few = np.zeros(120, dtype=bool)
    few[[np.flatnonzero(batch == name)[k] for name in "ABC" for k in (0, 1)]] = True
    wide = np.random.default_rng(1).normal(size=(120, 30))
    assert np.isfinite(tvn(wide, batch, few)).all() and tvn(wide, batch, few).shape == (120, 30)


def test_none_changes_nothing(screen):
    f, batch, is_control = screen
    np.testing.assert_array_equal(postprocessed("none", f, batch, is_control), f)


def test_too_few_or_unknown_controls_are_refused(screen):
    _, batch, is_control = screen
    well = np.arange(120)
    check_controls("tvn", batch, is_control, well)
    check_controls("none", batch, None, well)
    with pytest.raises(InputError, match="well_type"):
        check_controls("tvn", batch, None, well)
    with pytest.raises(InputError, match=r"4 or more .* A has \d+ images of 3"):
        check_controls("tvn", batch, is_control, well % 3)
    is_control = is_control & ((batch != "B") | (np.cumsum(is_control & (batch == "B")) <= 7))
    with pytest.raises(InputError, match=r"8 or more .* B has 7"):
        check_controls("centerscale", batch, is_control, well)
