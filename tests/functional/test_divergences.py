"""KL and MMD of channel statistics: against torch.distributions, and a double loop over two samples."""

import math

import numpy as np
import torch
from torch.distributions import Independent, Normal, kl_divergence

from abra_wilds.functional.divergences import gaussian_kl_of_moments, gaussian_mmd2
from tests.helpers import worst


def statistics(C=7, seed=0):
    """mu_p, sigma_p, mu_q, sigma_q of C channels whose scales differ."""
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-2, 2, C)
    parts = rng.normal(size=C), rng.uniform(0.3, 3, C), rng.normal(size=C), rng.uniform(0.3, 3, C)
    return tuple(torch.from_numpy(part * scale) for part in parts)


def sample(mu, sigma, n=40):
    """(points, weights) that average smooth functions over a normal distribution, by Gauss and Hermite."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    return mu + sigma * x, w / w.sum()


def mmd2_by_loops(p, q, width):
    """Squared MMD of two weighted samples, kernel value by kernel value."""

    def mean_kernel(a, b):
        total = 0.0
        for x, v in zip(*a, strict=True):
            for y, w in zip(*b, strict=True):
                total += v * w * math.exp(-((x - y) ** 2) / (2 * width**2))
        return total

    return mean_kernel(p, p) + mean_kernel(q, q) - 2 * mean_kernel(p, q)


def test_kl_is_that_of_torch_for_each_channel_and_for_the_diagonal_gaussian():
    mu_p, sigma_p, mu_q, sigma_q = statistics()
    kl = gaussian_kl_of_moments(mu_p, sigma_p, mu_q, sigma_q)
    p, q = Normal(mu_p, sigma_p), Normal(mu_q, sigma_q)
    assert worst(kl, kl_divergence(p, q)) < 1e-12
    assert worst(kl.sum(), kl_divergence(Independent(p, 1), Independent(q, 1))) < 1e-12


def test_mmd_is_that_of_a_double_loop_over_two_samples():
    stats = statistics()
    found = gaussian_mmd2(*stats)
    for c, (mu_p, sigma_p, mu_q, sigma_q) in enumerate(zip(*(s.tolist() for s in stats), strict=True)):
        expected = mmd2_by_loops(sample(mu_p, sigma_p), sample(mu_q, sigma_q), sigma_q)
        assert abs(found[c].item() - expected) < 1e-7


def test_mmd_is_what_random_samples_estimate():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, 1.5, 600), rng.normal(0.0, 1.0, 600)
    flat = np.full(600, 1 / 600)
    found = gaussian_mmd2(*map(torch.tensor, (0.5, 1.5, 0.0, 1.0)))
    # The estimate from n draws is too large by about 2/n, and spreads as much.
    assert abs(mmd2_by_loops((x, flat), (y, flat), 1.0) - found.item()) < 0.015


def test_both_are_zero_for_equal_statistics_and_positive_otherwise():
    mu_p, sigma_p, mu_q, sigma_q = statistics()
    for divergence in (gaussian_kl_of_moments, gaussian_mmd2):
        assert worst(divergence(mu_p, sigma_p, mu_p, sigma_p), torch.zeros(7)) < 1e-12
        assert bool((divergence(mu_p, sigma_p, mu_q, sigma_q) > 0).all())


def test_neither_depends_on_the_unit_of_a_channel():
    stats = statistics()
    for divergence in (gaussian_kl_of_moments, gaussian_mmd2):
        assert worst(divergence(*stats), divergence(*(1000 * s for s in stats))) < 1e-9


def test_mmd_of_a_point_far_away_is_the_two_mean_kernels_alone():
    far = gaussian_mmd2(*map(torch.tensor, (1e6, 1e-9, 0.0, 1.0)))
    assert abs(far.item() - (1 + 3**-0.5)) < 1e-6
