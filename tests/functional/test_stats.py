"""Channel statistics and their shift as functions."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from abra_wilds.functional.precision import at_least_fp32
from abra_wilds.functional.stats import (
    channel_stats,
    grouped_stats,
    instance_moments,
    instance_stats,
    pooled_stats,
    restyle,
)
from tests import reference


def some_map(N=4, C=3, h=3, w=2):
    return torch.from_numpy(np.random.default_rng(0).normal(2.0, 3.0, size=(N, C, h, w)))


def test_law_of_total_variance_gives_the_variance_of_the_whole():
    X = some_map()
    mu, sigma = pooled_stats(*instance_moments(X), eps=0.0)
    torch.testing.assert_close(mu, X.mean((0, 2, 3)), atol=1e-13, rtol=0)
    torch.testing.assert_close(sigma**2, torch.var(X, dim=(0, 2, 3), correction=0), atol=1e-12, rtol=0)
    torch.testing.assert_close(channel_stats(X, 0.0)[1], sigma, atol=0, rtol=0)


def test_instance_moments_are_the_pooled_features_and_the_biased_variance():
    X = some_map()
    mean, var = instance_moments(X)
    mu, sigma = reference.instance_stats(X.numpy(), 0.0)
    np.testing.assert_allclose(mean.numpy(), mu, atol=1e-13)
    np.testing.assert_allclose(var.numpy(), sigma**2, atol=1e-12)


@pytest.mark.parametrize("stats", [channel_stats, instance_stats])
def test_eps_stands_inside_the_root(stats):
    X = torch.ones(2, 3, 2, 2, dtype=torch.float64)
    assert torch.equal(stats(X, 0.25)[1], torch.full_like(stats(X, 0.25)[1], 0.5))


def test_a_single_image_of_a_single_pixel_has_the_guard_as_its_deviation():
    mu, sigma = channel_stats(torch.tensor([[[[3.0]]]]), 1e-6)
    assert mu.item() == 3.0
    assert sigma.item() == pytest.approx(1e-3)


def test_float32_does_not_cancel_far_from_zero():
    X = 1000 + 0.01 * some_map(16, 2, 8, 8).float()
    exact = torch.var(X.double(), dim=(0, 2, 3), correction=0).sqrt()
    np.testing.assert_allclose(channel_stats(X, 0.0)[1].numpy(), exact.numpy(), rtol=1e-3)


def test_statistics_of_groups_are_those_of_each_alone_in_the_order_given():
    X, groups = some_map(5), (torch.tensor([3, 0]), torch.tensor([4, 1, 2]))
    mu, sigma = grouped_stats(*instance_moments(X), groups, 0.1)
    assert mu.shape == sigma.shape == (2, 3)
    for k, rows in enumerate(groups):
        want = reference.channel_stats(X[rows].numpy(), 0.1)
        np.testing.assert_allclose(mu[k].numpy(), want[0], atol=1e-12)
        np.testing.assert_allclose(sigma[k].numpy(), want[1], atol=1e-12)


@pytest.mark.parametrize("pooled", [False, True])
def test_restyle_takes_statistics_by_channel_or_by_image_on_maps_and_pooled_features(pooled):
    X = some_map()
    x = X.mean((2, 3)) if pooled else X
    rng = np.random.default_rng(1)
    mu, d_mu, d_sigma = (torch.from_numpy(rng.normal(size=(4, 3))) for _ in range(3))
    sigma = torch.from_numpy(rng.uniform(0.5, 2, size=(4, 3)))
    got = restyle(x, mu, sigma, d_mu, d_sigma)
    by_channel = restyle(x, mu[0], sigma[0], d_mu[0], d_sigma[0])
    for n in range(4):
        image = x[n : n + 1].numpy()
        for result, k in ((got, n), (by_channel, 0)):
            want = reference.restyle(image, *(t[k].numpy() for t in (mu, sigma, d_mu, d_sigma)))
            np.testing.assert_allclose(result[n : n + 1].numpy(), want, atol=1e-12)


def test_restyle_commutes_with_average_pooling():
    X = some_map()
    mu, sigma = channel_stats(X)
    d_mu, d_sigma = torch.randn(2, 3, dtype=torch.float64)
    a = restyle(X, mu, sigma, d_mu, d_sigma).mean((2, 3))
    torch.testing.assert_close(a, restyle(X.mean((2, 3)), mu, sigma, d_mu, d_sigma), atol=1e-13, rtol=0)


def test_restyle_names_the_channel_counts_that_differ():
    X = some_map()
    mu, sigma = channel_stats(X)
    with pytest.raises(ValueError, match=r"3 .*\[3, 3, 2, 3\]"):
        restyle(X, mu, sigma, torch.zeros(2), torch.zeros(3))


def test_gradients_of_statistics_and_shift_are_those_of_finite_differences():
    X = some_map(3, 2, 2, 2).requires_grad_()
    groups = (torch.tensor([0, 2]), torch.tensor([1]))
    shifts = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(channel_stats, X)
    assert gradcheck(instance_stats, X)
    assert gradcheck(lambda X: grouped_stats(*instance_moments(X), groups), X)
    assert gradcheck(lambda X, shifts: restyle(X, *channel_stats(X), *shifts), (X, shifts))


def test_half_precision_becomes_float32_and_nothing_else_is_copied():
    for half in (torch.float16, torch.bfloat16):
        assert at_least_fp32(torch.ones(2, dtype=half)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(2, dtype=dtype)
        assert at_least_fp32(x) is x
