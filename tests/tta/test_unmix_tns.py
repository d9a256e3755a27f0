"""UnMix-TNS and TTN on one layer and on methods: loops over images and components, moments of a mixture."""

import copy
import math

import numpy as np
import pytest
import torch

from abra_wilds.tta.adapters import own_statistics, running_statistics
from abra_wilds.tta.bn_state import hooked, moments, tracking_norms
from abra_wilds.tta.literature.ttn import interpolated, ttn
from abra_wilds.tta.literature.unmix_tns import Components, unmix_tns
from tests.helpers import worst
from tests.tta.test_adapters import plate, trained
from tests.tta.test_bn_state import layer


def slow(norm, components, x):
    """One pass by hand, and the components after it; all loops over images, components and channels."""
    mu, var = (t.numpy().copy() for t in (components.mean, components.var))
    X = x.numpy().reshape(*x.shape[:2], -1)
    N, C, K = len(X), X.shape[1], len(mu)
    m, v = X.mean(2), X.var(2)
    y, step_mu, step_var = np.empty_like(X), np.zeros_like(mu), np.zeros_like(var)
    for b in range(N):
        s = [m[b] @ mu[k] / np.linalg.norm(m[b]) / np.linalg.norm(mu[k]) / 0.07 for k in range(K)]
        p = np.exp(s) / np.exp(s).sum()
        for c in range(C):
            means = [(1 - p[k]) * mu[k, c] + p[k] * m[b, c] for k in range(K)]
            variances = [(1 - p[k]) * var[k, c] + p[k] * v[b, c] for k in range(K)]
            mean = sum(means) / K
            total = sum(variances) / K + sum(t**2 for t in means) / K - mean**2
            w, bias = float(norm.weight[c]), float(norm.bias[c])
            y[b, c] = (X[b, c] - mean) / math.sqrt(total + norm.eps) * w + bias
        for k in range(K):
            step_mu[k] += p[k] * (m[b] - mu[k]) / N
            step_var[k] += p[k] * (v[b] - var[k]) / N
    rate = 1 - 0.9 ** (N / 64)
    return torch.from_numpy(y.reshape(x.shape)), mu + rate * step_mu, var + rate * step_var


@pytest.mark.parametrize("kind", ["2d", "1d of a sequence", "sync"])
def test_one_layer_is_the_papers_formulas(kind):
    norm, x = layer(kind)
    components = Components(norm, seed=3)
    with torch.no_grad(), hooked([norm.register_forward_hook(components)]):
        for images in (x, 2 - x, x[:1]):
            wanted, mu, var = slow(norm, components, images)
            torch.testing.assert_close(norm(images), wanted, rtol=0, atol=1e-10)
            np.testing.assert_allclose(components.mean.numpy(), mu, rtol=0, atol=1e-12)
            np.testing.assert_allclose(components.var.numpy(), var, rtol=0, atol=1e-12)


def test_components_start_as_a_mixture_with_the_trained_statistics():
    norm, _ = layer("2d")
    a, b = Components(norm, seed=0), Components(norm, seed=1)
    for each in (a, b):
        torch.testing.assert_close(each.mean.mean(0), norm.running_mean, rtol=0, atol=1e-12)
        total = each.var.mean(0) + each.mean.var(0, correction=0)
        torch.testing.assert_close(total, norm.running_var, rtol=0, atol=1e-12)
        torch.testing.assert_close(each.var, norm.running_var.expand(16, 4) / 2, rtol=0, atol=1e-12)
    assert worst(a.mean, b.mean) > 0.1


def test_vectors_keep_the_trained_statistics():
    norm, x = layer("1d")
    with torch.no_grad(), hooked([norm.register_forward_hook(Components(norm, seed=0))]):
        found = norm(x)
    assert torch.equal(found, norm(x))


def test_later_passes_see_what_earlier_ones_moved_and_every_bio_batch_starts_anew():
    method, a, b = trained(), plate(0), plate(1)
    first, again = unmix_tns(method, [a, b]), unmix_tns(method, [a, b])
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert worst(first[1], unmix_tns(method, [b])[0]) > 1e-6
    assert worst(first[0], running_statistics(method, [a])[0]) > 0.01


def test_half_precision_comes_out_as_it_went_in():
    norm, x = layer("2d")
    norm = norm.float()
    with torch.no_grad(), hooked([norm.register_forward_hook(Components(norm, seed=0))]):
        assert norm(x.float()).dtype == torch.float32
    half = copy.deepcopy(norm).bfloat16()
    with torch.no_grad(), hooked([half.register_forward_hook(Components(norm, seed=0))]):
        assert half(x.bfloat16()).dtype == torch.bfloat16
    a, b = (Components(norm, seed=0) for _ in range(2))
    a(norm, (x.float(),), x.float())
    with torch.autocast("cpu", torch.bfloat16):
        b(norm, (x.float(),), x.float())
    assert torch.equal(a.mean, b.mean), "a backbone's autocast does not reach in"


# TTN


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_interpolated_statistics_are_those_of_images_of_both_in_these_shares(share):
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    y = 3 * torch.randn(4, 3, 5, 5, dtype=torch.float64) + 2
    mixed = torch.cat([x] * round(4 * (1 - share)) + [y] * round(4 * share))
    found = interpolated(moments(x), moments(y), torch.full((3,), share, dtype=torch.float64))
    for a, b in zip(found, moments(mixed), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_ttn_goes_from_the_running_statistics_to_the_passes_channel_by_channel():
    method, x = trained(), plate(0)
    shares = [torch.zeros_like(m.running_mean) for m in tracking_norms(method)]
    assert torch.equal(ttn(method, [x], shares=shares)[0], running_statistics(method, [x])[0])
    own = [torch.ones_like(s) for s in shares]
    assert worst(ttn(method, [x], shares=own)[0], own_statistics(method, [x])[0]) < 1e-12
    shares[0][1] = 1.0
    one = ttn(method, [x], shares=shares)[0]
    assert worst(one, running_statistics(method, [x])[0]) > 1e-3 < worst(one, own_statistics(method, [x])[0])
