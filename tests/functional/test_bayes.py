"""Gaussian weights, consistency and Adam against NumPy in float64 and torch's own."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from abra_wilds.functional.bayes import adam_ascent, consistency, gaussian_kl, reparametrised
from tests import reference


def test_kl_of_gaussians_is_torchs_own_averaged_over_weights():
    torch.manual_seed(0)
    m, std = torch.randn(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64) + 0.1
    want = kl_divergence(Normal(m, std), Normal(torch.zeros_like(m), torch.full_like(m, 0.3))).mean()
    assert gaussian_kl(m, std, 0.3).item() == pytest.approx(want.item(), abs=1e-12)


def test_kl_of_the_prior_itself_is_0():
    assert abs(gaussian_kl(torch.zeros(3, dtype=torch.float64), torch.full((3,), 0.2).double(), 0.2)) < 1e-7


def test_weights_have_the_posteriors_mean_and_the_softplus_of_rho_as_deviation():
    torch.manual_seed(0)
    phi = torch.tensor([[2.0, -1.0], [-1.0, 0.5]], dtype=torch.float64)
    w = torch.stack([reparametrised(phi) for _ in range(20_000)])
    np.testing.assert_allclose(w.mean(0), [2, -1], atol=0.02)
    np.testing.assert_allclose(w.std(0), np.log1p(np.exp([-1, 0.5])), atol=0.02)


@pytest.mark.parametrize("floor", [1e-4, 0.05])
def test_consistency_is_the_mean_kl_to_the_floored_mean_distribution(floor):
    rng = np.random.default_rng(0)
    views = [2 * rng.normal(size=(4, 7)) for _ in range(3)]
    got = consistency([torch.from_numpy(z) for z in views], floor)
    assert got.item() == pytest.approx(reference.consistency(views, floor), abs=1e-12)
    assert got > 0.01


def test_consistency_of_equal_views_is_0_and_at_most_ln_3_for_any():
    z = torch.randn(4, 5, dtype=torch.float64)
    assert abs(consistency([z, z, z])) < 1e-15
    far = [100.0 * torch.eye(5, dtype=torch.float64)[[k]] for k in range(3)]
    assert consistency(far).item() == pytest.approx(math.log(3), abs=1e-12)


def test_consistency_is_finite_for_huge_logits_and_so_is_its_gradient():
    views = [torch.tensor([[1e4, -1e4, 0.0]]) * s for s in (1, -1)]
    views[0].requires_grad_()
    loss = consistency(views)
    assert loss.isfinite() and torch.autograd.grad(loss, views[0])[0].isfinite().all()


def test_adam_ascent_is_torchs_adam_that_maximises():
    torch.manual_seed(0)
    start, target = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    p = start.clone().requires_grad_()
    adam = torch.optim.Adam([p], lr=0.03, maximize=True)
    phi, moments = start, (torch.zeros_like(start), torch.zeros_like(start))
    for t in range(1, 8):
        p.grad = -((p.detach() - target) ** 3)
        adam.step()
        phi, moments = adam_ascent(phi, -((phi - target) ** 3), moments, t, 0.03)
    assert (phi - start).abs().min() > 1e-3
    np.testing.assert_allclose(phi, p.detach(), atol=1e-12)
