"""IRMX-PAIR: the weights of its three losses, and the step they make."""

import numpy as np
import pytest
import torch

from abra_wilds.functional.pareto import pareto_weights
from abra_wilds.methods.domains.pair import IRMXPairConfig
from tests import reference
from tests.helpers import array, gradients, make_method
from tests.methods.head_batches import UNEQUAL, feature_batch, make_head, slow_parts

EVEN = IRMXPairConfig(preference=(1.0, 1.0, 1.0))
MIXED = IRMXPairConfig(preference=(0.05, 0.15, 0.8))


def slow_losses(head, batch):
    """The three losses and their gradients by weight and bias, by finite differences."""
    W, b = array(head.weight), array(head.bias)
    joined = np.concatenate([W.ravel(), b])

    def losses(x):
        risk, penalty, variance = slow_parts(x[: W.size].reshape(W.shape), x[W.size :], batch)
        return np.array([risk, abs(penalty), variance])

    G = np.array([reference.finite_differences(lambda x, i=i: losses(x)[i], joined) for i in range(3)])
    return losses(joined), G


def alphas(out):
    return np.array([out.logs[f"alpha_{name}"].item() for name in ("erm", "irm", "vrex")])


@pytest.mark.parametrize("cfg", [EVEN, MIXED, IRMXPairConfig()], ids=["even", "mixed", "published"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_loss_and_gradient_are_the_weighted_sums_of_three_losses_and_gradients(cfg, seed):
    method, head, batch = make_method("IRMX-PAIR", cfg), make_head(), feature_batch(seed=seed)
    losses, G = slow_losses(head, batch)
    want = pareto_weights(losses, G @ G.T, np.array(cfg.preference), cfg.eps)
    out = method.head_step(head, batch)
    np.testing.assert_allclose(alphas(out), want, atol=1e-5)
    alpha = alphas(out)
    assert out.loss.item() == pytest.approx(alpha @ losses, abs=1e-10)
    found = gradients(head, out.loss)
    slope = np.concatenate([array(found["weight"]).ravel(), array(found["bias"])])
    np.testing.assert_allclose(slope, alpha @ G, atol=1e-7)
    assert alpha.sum() == pytest.approx(1, abs=1e-12)
    assert (alpha >= 0).all()


def test_a_negative_irm_penalty_counts_as_positive():
    head = make_head()
    for seed in range(20):
        batch = feature_batch(seed=seed)
        risk, penalty, variance = slow_parts(array(head.weight), array(head.bias), batch)
        if penalty < 0:
            break
    assert penalty < 0
    out = make_method("IRMX-PAIR", MIXED).head_step(head, batch)
    assert out.logs["penalty"].item() == pytest.approx(penalty, abs=1e-12)
    assert out.loss.item() == pytest.approx(alphas(out) @ [risk, -penalty, variance], abs=1e-12)


def test_equal_domains_leave_a_finite_step():
    head, half, batch = make_head(), feature_batch((0, 0, 0)), feature_batch((0, 0, 0, 1, 1, 1))
    batch.x.copy_(torch.cat([half.x, half.x]))
    batch.target.y.copy_(torch.cat([half.target.y, half.target.y]))
    out = make_method("IRMX-PAIR", EVEN).head_step(head, batch)
    assert out.logs["variance"].item() == 0.0
    assert all(g.isfinite().all() for g in gradients(head, out.loss).values())


def test_a_loss_that_is_not_finite_reaches_the_engine_as_such():
    head, batch = make_head(), feature_batch()
    batch.x[0, 0] = float("nan")
    assert make_method("IRMX-PAIR").head_step(head, batch).loss.isnan()


def test_steps_lower_the_loss_that_counts_most():
    method, head, batch = make_method("IRMX-PAIR"), make_head(), feature_batch(UNEQUAL * 3)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    variances = []
    for _ in range(100):
        optimizer.zero_grad()
        out = method.head_step(head, batch)
        out.loss.backward()
        optimizer.step()
        variances.append(out.logs["variance"].item())
    assert variances[-1] < 0.1 * variances[0]
