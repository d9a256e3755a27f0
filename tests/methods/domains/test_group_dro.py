"""Group DRO against loops over domains."""

import math

import numpy as np
import pytest
import torch

from abra_wilds.methods.domains.group_dro import GroupDROConfig, group_means
from tests import reference
from tests.helpers import (
    array,
    assert_is_erm,
    clean_map,
    gradients,
    make_batch,
    make_info,
    make_method,
    target_arrays,
    worst,
)

G = (4, 1, 1, 4, 2, 1, 4)  # group 0 trains too but is absent from this batch; 3 and 5 never occur in training


def domain_losses(method, batch, W=None):
    """Mean cross-entropy of each bio-batch, 0 for those that are absent: a list over all groups."""
    f = clean_map(method, batch).mean((2, 3))
    z = f @ (array(method.head.weight) if W is None else W).T + array(method.head.bias)
    y, y_b, share = target_arrays(batch.target)
    Y, losses = reference.dense(y, 5, y_b, share), []
    for group in range(6):
        rows = [n for n in range(len(batch)) if batch.g[n] == group]
        losses.append(reference.cross_entropy(z[rows], Y[rows]) if rows else 0.0)
    return losses


def moved(q, losses, eta):
    """Exponentiated gradient: q exp(eta l) / Z."""
    raised = [a * math.exp(eta * loss) for a, loss in zip(q, losses, strict=True)]
    return np.array(raised) / sum(raised)


def test_group_means_are_those_of_a_loop_with_zero_for_absent_groups():
    values, g = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([3, 0, 3, 3])
    assert group_means(values, g, 5).tolist() == [2.0, 0.0, 0.0, pytest.approx(13 / 3), 0.0]


def test_weights_start_uniform_on_training_groups_and_zero_elsewhere():
    assert make_method("groupDRO").q.tolist() == [0.25, 0.25, 0.25, 0.0, 0.25, 0.0]


@pytest.mark.parametrize("w", [None, 0.63])
def test_weights_move_before_the_loss_is_formed_and_both_equal_the_slow_loop(w):
    method, batch = make_method("groupDRO", GroupDROConfig(0.7)), make_batch(G, w=w)
    losses, q = domain_losses(method, batch), array(method.q)
    for _ in range(3):
        q = moved(q, losses, 0.7)
        out = method(batch)
        np.testing.assert_allclose(array(method.q), q, atol=1e-12)
        assert out.loss.item() == pytest.approx(float(q @ losses), abs=1e-10)
        assert out.logs["max_group_weight"].item() == pytest.approx(q.max(), abs=1e-12)
    assert abs(q - array(make_method("groupDRO").q)).max() > 0.05


def test_gradient_holds_the_weights_fixed():
    method, batch = make_method("groupDRO", GroupDROConfig(0.7)), make_batch(G)
    W = array(method.head.weight)
    q = moved(array(method.q), domain_losses(method, batch), 0.7)
    slope = reference.finite_differences(lambda W: float(q @ domain_losses(method, batch, W)), W)
    np.testing.assert_allclose(array(gradients(method, method(batch).loss)["head.weight"]), slope, atol=1e-8)


def test_weights_sum_to_one_and_stay_zero_where_nothing_trains():
    method = make_method("groupDRO", GroupDROConfig(5.0))
    for seed in range(20):
        method(make_batch(G, seed=seed))
        assert method.q.sum().item() == pytest.approx(1.0, abs=1e-12)
        assert method.q[[3, 5]].tolist() == [0.0, 0.0]
        assert (method.q >= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_weight_rises_if_and_only_if_its_loss_is_above_the_weighted_mean(seed):
    eta = 1e-4  # for larger steps the threshold is the soft mean log(sum q exp(eta l)) / eta, a little higher
    method = make_method("groupDRO", GroupDROConfig(eta))
    q, losses = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    method.q.copy_((q + 0.1) / (q + 0.1).sum())
    q, losses = array(method.q), 3 * losses
    method.reweight(losses)
    mean = float(q @ array(losses))
    assert (array(method.q) > q).tolist() == (losses > mean).tolist()


def test_evaluation_leaves_the_weights_and_uses_them():
    method, batch = make_method("groupDRO", GroupDROConfig(0.7)), make_batch(G)
    method(batch)
    q = method.q.clone()
    method.eval()
    out = method(batch)
    assert torch.equal(method.q, q)
    z = method.predict(batch.x).detach()
    losses = torch.nn.functional.cross_entropy(z, batch.target.y, reduction="none")
    want = sum(q[k] * losses[batch.g == k].mean() for k in (1, 2, 4))
    assert worst(out.loss, want) < 1e-12


@pytest.mark.parametrize("w", [None, 0.63])
def test_without_steps_and_with_equal_groups_loss_and_gradients_are_those_of_erm(w):
    method = make_method("groupDRO", GroupDROConfig(0.0), info=make_info(n_groups=4, train_groups=(0, 1, 2)))
    assert worst(method.q[:3], torch.full((3,), 1 / 3)) < 1e-7
    method.q[:3] = 1 / 3  # it is float32 when it is born
    assert_is_erm(method, make_batch((0, 2, 1, 1, 0, 2), w=w))
