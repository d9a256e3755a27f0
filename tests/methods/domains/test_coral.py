"""Deep CORAL against a loop over pairs of domains."""

import numpy as np
import pytest
import torch

from abra_wilds.functional.losses import coral
from abra_wilds.methods.domains.coral import DeepCORALConfig
from tests import reference
from tests.helpers import array, assert_is_erm, clean_map, make_batch, make_method, target_arrays, worst

UNEQUAL = (0, 1, 1, 0, 2, 2, 0, 1, 1, 0, 0)
ROWS = [[0, 3, 6, 9, 10], [1, 2, 7, 8], [4, 5]]


def as_tensors(rows):
    return tuple(torch.tensor(r) for r in rows)


@pytest.mark.parametrize("rows", [ROWS, ROWS[:2]])
def test_linear_time_form_equals_the_loop_over_pairs_and_so_does_its_gradient(rows):
    features = np.random.default_rng(0).normal(size=(11, 4)) * [1, 2, 3, 4]
    f = torch.from_numpy(features).requires_grad_()
    penalty = coral(f, as_tensors(rows))
    assert penalty.item() == pytest.approx(reference.coral(features, rows), abs=1e-10)
    slope = reference.finite_differences(lambda x: reference.coral(x, rows), features)
    np.testing.assert_allclose(array(torch.autograd.grad(penalty, f)[0]), slope, atol=1e-6)


@pytest.mark.parametrize("shift", [0.01, 1.0])
def test_float32_keeps_the_penalty_of_nearly_equal_domains(shift):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(8, 6))
    parts = [base + shift * 1e-1 * rng.normal(size=base.shape) + 3.0 for _ in range(4)]
    features = np.concatenate(parts).astype(np.float32)
    rows = np.arange(32).reshape(4, 8)
    want = reference.coral(features.astype(np.float64), rows)
    got = coral(torch.from_numpy(features), as_tensors(rows.tolist()))
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(want, rel=1e-3)


def test_identical_domains_cost_nothing():
    f = torch.randn(4, 3, dtype=torch.float64)
    assert coral(torch.cat([f, f, f]), as_tensors([range(4), range(4, 8), range(8, 12)])).item() < 1e-30


def test_a_constant_shift_of_one_domain_changes_the_mean_term_only():
    torch.manual_seed(0)
    f, shift = torch.randn(12, 3, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    groups = as_tensors([range(5), range(5, 12)])
    moved = f.clone()
    moved[:5] += shift
    gap = f[:5].mean(0) - f[5:].mean(0)
    want = ((gap + shift) ** 2).mean() - (gap**2).mean()
    assert worst(coral(moved, groups) - coral(f, groups), want) < 1e-12


def test_a_single_domain_costs_nothing():
    assert coral(torch.randn(4, 3), as_tensors([range(4)])).item() == 0.0


@pytest.mark.parametrize("w", [None, 0.63])
def test_loss_equals_the_slow_loop(w):
    method, batch = make_method("deepCORAL", DeepCORALConfig(2.5)), make_batch(UNEQUAL, w=w)
    f = clean_map(method, batch).mean((2, 3))
    z = f @ array(method.head.weight).T + array(method.head.bias)
    y, y_b, share = target_arrays(batch.target)
    penalty = reference.coral(f, [rows.numpy() for rows in batch.groups])
    out = method(batch)
    assert out.logs["penalty"].item() == pytest.approx(penalty, abs=1e-10)
    want = reference.cross_entropy(z, reference.dense(y, 5, y_b, share)) + 2.5 * penalty
    assert out.loss.item() == pytest.approx(want, abs=1e-10)
    assert penalty > 1e-3


@pytest.mark.parametrize("w", [None, 0.63])
def test_without_penalty_loss_and_gradients_are_those_of_erm(w):
    method = make_method("deepCORAL", DeepCORALConfig(0.0))
    assert_is_erm(method, make_batch(UNEQUAL, w=w))
