"""Losses as functions: limits, symmetries, an outside oracle, and gradients."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from abra_wilds.functional.losses import (
    COSINE_GUARD,
    add_angular_margin,
    arcface,
    arcface_logits,
    arcface_two_term,
    coral,
    cosine_logits,
    cross_entropies,
    irm_penalty,
    js_divergence,
)
from abra_wilds.types import Target
from tests import reference
from tests.helpers import target_arrays, worst

EACH = torch.tensor([0.1, 0.9, 0.0, 1.0], dtype=torch.float64)
WEIGHTS = pytest.mark.parametrize("w", [None, 0.63, EACH], ids=["hard", "cutmix", "each"])


def inputs(seed=0, N=4, D=3, O=5):
    """Features, class directions and logits in float64."""
    rng = np.random.default_rng(seed)
    return tuple(torch.from_numpy(rng.normal(size=size)) for size in ((N, D), (O, D), (N, O)))


def target(w=None):
    y, y_b = torch.tensor([0, 3, 4, 3]), torch.tensor([1, 3, 0, 2])
    return Target(y) if w is None else Target(y, y_b, w)


def dense(t, O=5):
    y, y_b, w = target_arrays(t)
    return reference.dense(y, O, y_b, w)


@WEIGHTS
def test_dense_target_rows_mix_y_by_w_and_y_b_by_the_rest(w):
    Y = target(w).dense(5, torch.float64)
    np.testing.assert_allclose(Y.numpy(), dense(target(w)), atol=1e-15)
    np.testing.assert_allclose(Y.sum(1).numpy(), 1, atol=1e-15)


@WEIGHTS
def test_cross_entropy_of_each_image_equals_the_dense_formula(w):
    z, t = inputs()[2], target(w)
    want = [reference.cross_entropy(z[n : n + 1].numpy(), dense(t)[n : n + 1]) for n in range(4)]
    np.testing.assert_allclose(cross_entropies(z, t).numpy(), want, atol=1e-14)


@pytest.mark.parametrize("w", [None, 0.63])
def test_cross_entropy_is_finite_for_logits_of_ten_thousand(w):
    z = (torch.eye(4, 5) * 2 - 1) * 1e4
    z.requires_grad_()
    losses = cross_entropies(z, target(w))
    assert losses.isfinite().all()
    assert torch.autograd.grad(losses.sum(), z)[0].isfinite().all()


def test_cosines_equal_a_loop_and_do_not_depend_on_lengths():
    f, V, _ = inputs()
    assert worst(cosine_logits(f, V), reference.cosines(f.numpy(), V.numpy())) < 1e-14
    lengths = torch.tensor([1e-3, 1.0, 5.0, 1e3], dtype=torch.float64).reshape(-1, 1)
    torch.testing.assert_close(cosine_logits(f * lengths, V * 7), cosine_logits(f, V), atol=1e-14, rtol=0)


def test_cosines_of_parallel_vectors_stay_the_guard_away_from_one():
    f = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
    assert worst(cosine_logits(f, f[:1]).flatten(), [1 - COSINE_GUARD, COSINE_GUARD - 1]) < 1e-7


@pytest.mark.parametrize("m", [0.0, 0.3, 0.5, 1.5, math.pi])
def test_margin_equals_arccos_plus_m_and_its_line(m):
    cosines = np.linspace(-1 + 1e-6, 1 - 1e-6, 41)
    want = [reference.psi(c, m) for c in cosines]
    np.testing.assert_allclose(add_angular_margin(torch.from_numpy(cosines), m).numpy(), want, atol=1e-9)


@pytest.mark.parametrize("m", [0.3, 0.5, 1.0])
def test_margin_lowers_every_cosine_and_rises_with_it_on_either_branch(m):
    c = torch.linspace(-1 + 1e-6, 1 - 1e-6, 1001, dtype=torch.float64)
    moved, edge = add_angular_margin(c, m), math.cos(math.pi - m)
    assert (moved < c).all()
    for branch in (moved[c > edge], moved[c <= edge]):
        assert (branch.diff() > 0).all()


def test_without_margin_arcface_is_the_scaled_normalised_softmax():
    f, V, _ = inputs()
    z = 30.0 * F.normalize(f) @ F.normalize(V).T
    assert worst(arcface_logits(f, V, target().dense(5, torch.float64), 0.0, 30.0), z) < 1e-12
    assert worst(arcface(f, V, target(), 0.0, 30.0), F.cross_entropy(z, target().y, reduction="none")) < 1e-12


@WEIGHTS
def test_arcface_equals_the_slow_formulas(w):
    f, V, _ = inputs()
    y, y_b, share = target_arrays(target(w))
    want = reference.arcface(f.numpy(), V.numpy(), dense(target(w)), 0.5, 30.0)
    assert arcface(f, V, target(w), 0.5, 30.0).mean().item() == pytest.approx(want, abs=1e-11)
    want = reference.arcface_two_term(f.numpy(), V.numpy(), y, y_b, share, 0.5, 30.0)
    assert arcface_two_term(f, V, target(w), 0.5, 30.0).mean().item() == pytest.approx(want, abs=1e-11)


def test_dense_and_two_term_arcface_differ_on_mixed_targets_and_agree_on_hard_ones():
    f, V, _ = inputs()
    a, b = (loss(f, V, target(0.63), 0.5, 30.0).mean() for loss in (arcface, arcface_two_term))
    assert (a - b).abs() > 1e-2
    a, b = (loss(f, V, target(), 0.5, 30.0).mean() for loss in (arcface, arcface_two_term))
    assert (a - b).abs() < 1e-12


@pytest.mark.parametrize("m, s", [(0.5, 30.0), (0.3, 64.0), (1.2, 5.0)])
def test_hard_arcface_equals_pytorch_metric_learning(m, s):
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="it is not installed")
    f, V, _ = inputs(N=40)
    y = torch.arange(40) % 5
    oracle = losses.ArcFaceLoss(num_classes=5, embedding_size=3, margin=math.degrees(m), scale=s)
    oracle.W.data = V.T.clone()
    assert arcface(f, V, Target(y), m, s).mean().item() == pytest.approx(oracle(f, y).item(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("w", [None, 0.63])
@pytest.mark.parametrize("loss", [arcface, arcface_two_term])
def test_arcface_and_its_gradient_are_finite_for_cosines_of_plus_and_minus_one(loss, w, dtype):
    V = torch.tensor(
        [[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=dtype
    )
    f = (torch.tensor([[1.0], [1.0], [-2.0], [1e4]], dtype=dtype) * V[0]).requires_grad_()
    V.requires_grad_()
    value = loss(f, V, target(w), 0.5, 30.0).mean()
    assert value.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, (f, V)))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_js_of_equal_distributions_is_zero_and_shifted_logits_are_equal_distributions(dtype, tolerance):
    z = inputs()[2].to(dtype) * 5
    assert abs(js_divergence(z, z).item()) < tolerance
    assert abs(js_divergence(z, z + 3).item()) < tolerance


def test_js_of_disjoint_distributions_is_ln2_with_finite_gradients_even_at_ten_thousand():
    z = (torch.eye(4) * 1e4).requires_grad_()
    q = (torch.eye(4).flip(1) * 1e4).requires_grad_()
    value = js_divergence(z, q)
    assert value.item() == pytest.approx(math.log(2), abs=1e-6)
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, (z, q)))


def test_js_averages_over_images_and_sums_over_classes():
    _, _, z = inputs()
    each = [js_divergence(z[n : n + 1], z.flip(0)[n : n + 1]).item() for n in range(4)]
    assert js_divergence(z, z.flip(0)).item() == pytest.approx(np.mean(each), abs=1e-15)


@WEIGHTS
def test_gradients_of_differentiable_losses_are_those_of_finite_differences(w):
    f, V, z = (t.requires_grad_() for t in inputs())
    other = inputs(seed=1)[2].requires_grad_()
    assert gradcheck(lambda z: cross_entropies(z, target(w)), z)
    assert gradcheck(cosine_logits, (f, V))
    assert gradcheck(lambda f, V: arcface(f, V, target(w), 0.5, 3.0), (f, V))
    assert gradcheck(lambda f, V: arcface_two_term(f, V, target(w), 0.5, 3.0), (f, V))
    assert gradcheck(js_divergence, (z, other))
    assert gradcheck(lambda f: coral(f, (torch.tensor([0, 2]), torch.tensor([1, 3]))), f)
    cosines = torch.linspace(-0.99, 0.99, 8, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda c: add_angular_margin(c, 0.5), cosines)


def test_irm_penalty_can_itself_be_differentiated():
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    z = inputs()[2].requires_grad_()
    assert gradcheck(lambda z: irm_penalty(cross_entropies(scale * z, target()), scale), z)
