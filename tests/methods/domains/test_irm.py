"""IRMv1 against its closed form."""

import numpy as np
import pytest
import torch

from abra_wilds.functional.losses import irm_penalty
from abra_wilds.methods.domains.irm import IRMConfig
from tests import reference
from tests.helpers import array, assert_is_erm, clean_map, gradients, make_batch, make_method, target_arrays

UNEQUAL = (0, 1, 1, 0, 2, 2, 0, 1, 1, 0, 0)  # five, four and two images
EQUAL = (0, 1, 1, 0, 2, 2)


def slow_loss(z, batch, weight):
    """Mean over domains of risk plus weight times the product of the slopes on even and odd positions."""
    y, y_b, share = target_arrays(batch.target)
    Y, risks, penalties = reference.dense(y, z.shape[1], y_b, share), [], []
    for rows in batch.groups:
        even, odd = rows[0::2].numpy(), rows[1::2].numpy()
        risks.append(reference.cross_entropy(z[rows], Y[rows]))
        penalties.append(reference.scale_slope(z[even], Y[even]) * reference.scale_slope(z[odd], Y[odd]))
    return np.mean(risks) + weight * np.mean(penalties), np.mean(penalties)


@pytest.mark.parametrize("w", [None, 0.63])
def test_penalty_is_the_product_of_the_slopes_on_even_and_odd_positions(w):
    z, batch = np.random.default_rng(0).normal(size=(6, 5)), make_batch(w=w)
    y, y_b, share = target_arrays(batch.target)
    Y = reference.dense(y, 5, y_b, share)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    losses = -(torch.from_numpy(Y) * torch.log_softmax(scale * torch.from_numpy(z), 1)).sum(1)
    want = reference.scale_slope(z[0::2], Y[0::2]) * reference.scale_slope(z[1::2], Y[1::2])
    assert irm_penalty(losses, scale).item() == pytest.approx(want, abs=1e-14)


def test_slope_in_closed_form_is_the_derivative_of_the_risk_by_the_scale():
    z = np.random.default_rng(0).normal(size=(6, 5))
    Y = reference.dense([0, 1, 2, 3, 4, 0], 5, [1, 1, 0, 0, 2, 2], 0.3)
    slope = reference.finite_differences(lambda s: reference.cross_entropy(s * z, Y), np.ones(()))
    assert slope == pytest.approx(reference.scale_slope(z, Y), abs=1e-8)


@pytest.mark.parametrize("w", [None, 0.63])
def test_loss_and_gradient_equal_the_slow_loop(w):
    method, batch = make_method("IRM", IRMConfig(lam=7.0, penalty_anneal_iters=0)), make_batch(UNEQUAL, w=w)
    f, W, b = clean_map(method, batch).mean((2, 3)), array(method.head.weight), array(method.head.bias)
    want, penalty = slow_loss(f @ W.T + b, batch, 7.0)
    out = method(batch)
    assert out.loss.item() == pytest.approx(want, abs=1e-10)
    assert out.logs["penalty"].item() == pytest.approx(penalty, abs=1e-10)
    assert abs(penalty) > 1e-4
    slope = reference.finite_differences(lambda W: slow_loss(f @ W.T + b, batch, 7.0)[0], W)
    np.testing.assert_allclose(array(gradients(method, out.loss)["head.weight"]), slope, atol=1e-8)


def test_penalty_can_be_negative():
    z, y = torch.tensor([[2.0, 0.0], [2.0, 0.0]], dtype=torch.float64), torch.tensor([0, 1])
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert irm_penalty(torch.nn.functional.cross_entropy(scale * z, y, reduction="none"), scale) < 0


@pytest.mark.parametrize("w", [None, 0.63])
def test_without_penalty_and_with_equal_domains_loss_and_gradients_are_those_of_erm(w):
    irm = make_method("IRM", IRMConfig(lam=0.0, penalty_anneal_iters=0))
    assert_is_erm(irm, make_batch(EQUAL, w=w))


def test_penalty_weighs_one_before_the_annealing_step_and_lambda_from_it_on():
    method, batch = make_method("IRM", IRMConfig(lam=7.0, penalty_anneal_iters=3)), make_batch(UNEQUAL)
    f, W, b = clean_map(method, batch).mean((2, 3)), array(method.head.weight), array(method.head.bias)
    for step in range(6):
        out = method(batch)
        want, _ = slow_loss(f @ W.T + b, batch, 7.0 if step >= 3 else 1.0)
        assert out.loss.item() == pytest.approx(want, abs=1e-10)
        assert out.fresh_optimizer is (step == 3)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_step_count_survives_the_state_dict_so_that_the_optimiser_is_renewed_once(stop):
    cfg, batch, fresh = IRMConfig(penalty_anneal_iters=3), make_batch(EQUAL), []
    method = make_method("IRM", cfg)
    for step in range(6):
        if step == stop:
            state, method = method.state_dict(), make_method("IRM", cfg)
            method.load_state_dict(state)
        fresh.append(method(batch).fresh_optimizer)
    assert fresh == [False, False, False, True, False, False]
