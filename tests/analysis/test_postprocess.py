"""Alignment on controls against sums written out, and against eigenvectors of the controls' covariance."""

import numpy as np
import pytest

from abra_wilds.analysis.postprocess import check_controls, postprocessed, tvn
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


def slow_centerscale(f, batch, is_control):
    out = np.zeros(f.shape)
    for i in range(len(f)):
        for d in range(f.shape[1]):
            own = [float(f[j, d]) for j in range(len(f)) if batch[j] == batch[i] and is_control[j]]
            mean = sum(own) / len(own)
            deviation = (sum((v - mean) ** 2 for v in own) / len(own)) ** 0.5
            out[i, d] = (f[i, d] - mean) / (deviation or 1)
    return out


def test_centerscale_is_each_experiments_standardisation_on_its_controls(screen):
    f, batch, is_control = screen
    f[:, 2] = 7  # a dead feature
    found = postprocessed("centerscale", f, batch, is_control)
    np.testing.assert_allclose(found, slow_centerscale(f, batch, is_control), atol=1e-5)


def test_tvn_is_that_along_eigenvectors_of_the_controls_covariance(screen):
    f, batch, is_control = screen
    controls = f[is_control].astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(controls.T))
    axes = (f - controls.mean(0)) @ vectors[:, np.argsort(values)[::-1]]
    expected = slow_centerscale(axes, batch, is_control)
    found = postprocessed("tvn", f, batch, is_control)
    signs = np.sign((found * expected).sum(0))  # which way an axis points is free
    np.testing.assert_allclose(found * signs, expected, atol=1e-4)


def test_after_tvn_controls_of_every_experiment_have_mean_0_and_deviation_1_on_every_axis(screen):
    f, batch, is_control = screen
    found = postprocessed("tvn", f, batch, is_control)
    for name in "ABC":
        own = found[(batch == name) & is_control]
        np.testing.assert_allclose(own.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(own.std(0), 1, atol=1e-5)


def test_axes_without_variance_among_controls_are_left_out(screen):
    f, batch, is_control = screen
    doubled = np.concatenate([f, f, np.ones((len(f), 1))], axis=1).astype(np.float64)
    assert tvn(doubled, batch, is_control).shape == (120, 6)
    few = np.zeros(120, dtype=bool)
    few[[np.flatnonzero(batch == name)[k] for name in "ABC" for k in (0, 1)]] = True
    wide = np.random.default_rng(1).normal(size=(120, 30))
    assert tvn(wide, batch, few).shape == (120, 5), "six controls around their mean span five axes"


def test_none_changes_nothing(screen):
    f, batch, is_control = screen
    np.testing.assert_array_equal(postprocessed("none", f, batch, is_control), f)


def test_too_few_or_unknown_controls_are_refused(screen):
    _, batch, is_control = screen
    check_controls("tvn", batch, is_control)
    check_controls("none", batch, None)
    with pytest.raises(InputError, match="well_type"):
        check_controls("tvn", batch, None)
    is_control = is_control & ((batch != "B") | (np.cumsum(is_control & (batch == "B")) <= 7))
    with pytest.raises(InputError, match=r"8 or more .* B has 7"):
        check_controls("centerscale", batch, is_control)
