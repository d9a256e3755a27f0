"""The Bayesian augmenter against a slow convolution, its KL layer by layer, and its draws."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from abra_wilds.nets.augmenter import KERNELS, WIDTH, Augmenter, draw_augmenter
from tests.helpers import multiplications, resnet50_multiplications


def slow_conv(x, weight, bias):
    """Correlation with zero padding of one image, position by position."""
    k = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    out = np.zeros((len(weight), *x.shape[1:]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            out[:, i, j] = (weight * padded[None, :, i : i + k, j : j + k]).sum((1, 2, 3)) + bias
    return out


def test_images_pass_leaky_layers_and_come_out_standardised():
    torch.manual_seed(0)
    g = Augmenter(2, (3, 1, 5))
    x, w = torch.randn(2, 2, 6, 6, dtype=torch.float64), torch.randn(sum(g.sizes), dtype=torch.float64)
    out, rest = g(x, w), w.numpy()
    for n in range(2):
        y, at = x[n].numpy(), 0
        for layer, (o, i, k) in enumerate([(18, 2, 3), (18, 18, 1), (2, 18, 5)]):
            size = o * i * k * k
            weight, at = rest[at : at + size].reshape(o, i, k, k), at + size
            bias, at = (rest[at : at + o], at + o) if layer < 2 else (0.0, at)
            y = slow_conv(y, weight, np.reshape(bias, -1))
            y = y if layer == 2 else np.where(y > 0, y, 0.2 * y)
        assert at == len(rest)
        y = (y - y.mean((1, 2), keepdims=True)) / y.std((1, 2), keepdims=True)
        np.testing.assert_allclose(out[n], y, atol=1e-6)


def test_kl_sums_over_layers_the_means_over_weights_and_over_biases():
    torch.manual_seed(0)
    g = Augmenter(3, (5, 1))
    phi = g.fresh(torch.zeros((), dtype=torch.float64))
    total = 0.0
    for m, rho, k in zip(*(t.split([3 * WIDTH * 25, WIDTH, 3 * WIDTH]) for t in phi), (5, 5, 1), strict=True):
        prior = Normal(torch.zeros_like(m), 1 / math.sqrt(3 * k * k))
        total += kl_divergence(Normal(m, F.softplus(rho)), prior).mean().item()
    assert g.kl(phi).item() == pytest.approx(total, abs=1e-10)


def test_a_fresh_posterior_has_means_around_0_and_rho_around_minus_1():
    torch.manual_seed(0)
    m, rho = Augmenter(6, (7, 7, 7)).fresh(torch.zeros(()))
    np.testing.assert_allclose([m.mean(), m.std(), rho.mean(), rho.std()], [0, 0.1, -1, 0.1], atol=0.01)


def test_every_layer_draws_its_own_kernel_size_and_all_sizes_come():
    torch.manual_seed(0)
    drawn = [draw_augmenter(3, 4).kernels for _ in range(200)]
    assert all(len(kernels) == 5 for kernels in drawn)
    assert all({kernels[i] for kernels in drawn} == set(KERNELS) for i in range(5))
    assert len(set(drawn)) > 150


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("depth", [0, 4])
def test_images_of_any_channels_keep_their_shape(channels, depth):
    torch.manual_seed(0)
    g, x = draw_augmenter(channels, depth), torch.randn(2, channels, 32, 32)
    out = g(x, torch.randn(sum(g.sizes)))
    assert out.shape == x.shape
    np.testing.assert_allclose(out.std((2, 3), correction=0), 1, atol=1e-3)


def test_a_pass_costs_what_advbayes_states():
    x, costs = torch.empty(1, 3, 256, 256, device="meta"), []
    for kernel in KERNELS:  # layers draw apart, so the mean over draws is that over equal kernels
        g = Augmenter(3, (kernel,) * 5)
        costs.append(multiplications(lambda g=g: g(x, torch.empty(sum(g.sizes), device="meta"))))
    assert np.mean(costs) == pytest.approx(1.5e9, rel=0.02)
    assert np.mean(costs) / resnet50_multiplications() == pytest.approx(0.25, abs=0.04)
