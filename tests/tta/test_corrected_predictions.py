"""LAME and EM for label shift: their objectives, fixed points and closed forms, and a method untouched."""

import math

import numpy as np
import pytest
import torch

from abra_wilds.tta.adapters import own_statistics, running_statistics
from abra_wilds.tta.literature.label_shift import corrected, for_own_mix
from abra_wilds.tta.literature.lame import agreed, lame, nearest
from tests.helpers import worst
from tests.tta.test_adapters import plate, trained

RNG = torch.Generator().manual_seed(0)
f64 = {"dtype": torch.float64, "generator": RNG}


def slow_nearest(f, k):
    """By angles between pairs, one after the other."""
    w = np.zeros((len(f), len(f)))
    for i, a in enumerate(f):
        angles = [(math.acos(min(1, a @ b / math.sqrt((a @ a) * (b @ b)))), j) for j, b in enumerate(f)]
        for _, j in sorted(t for t in angles if t[1] != i)[:k]:
            w[i, j] = 1
    return w


def slow_lame(p, w, rounds=100):
    """The fixed point in probabilities, image by image."""
    y = p.copy()
    for _ in range(rounds):
        y = np.stack([p[i] * np.exp(w[i] @ y) for i in range(len(p))])
        y /= y.sum(1, keepdims=True)
    return y


@pytest.mark.parametrize("n", [1, 4, 30])
def test_lame_is_the_papers_fixed_point(n):
    f, logits = torch.randn(n, 7, **f64), 2 * torch.randn(n, 4, **f64)
    w = slow_nearest(f.numpy(), 5)
    np.testing.assert_array_equal(nearest(f).numpy(), w)
    assert w.sum(1).tolist() == [min(5, n - 1)] * n
    y = slow_lame(logits.softmax(1).numpy(), w)
    np.testing.assert_allclose(agreed(logits, nearest(f)).exp().numpy(), y, rtol=0, atol=1e-5)


def test_lame_raises_the_objective_where_neighbours_are_mutual():
    logits, w = torch.randn(12, 3, **f64), (torch.rand(12, 12, **f64) < 0.3).double()
    w = w @ w.T  # symmetric and positive semi-definite, as the paper's bound asks

    def objective(y):
        return float((y * (logits.log_softmax(1) - y.log())).sum() + 0.5 * (w * (y @ y.T)).sum())

    best = objective(agreed(logits, w).exp())
    others = [
        objective(torch.distributions.Dirichlet(torch.ones(12, 3)).sample().double()) for _ in range(50)
    ]
    assert best > objective(logits.softmax(1)) and best > max(others)


def test_neighbours_outvote_one_image():
    """Five images of one kind, one of which says otherwise; the others are far away."""
    f = torch.tensor([[1.0, 0.01 * i] for i in range(6)] + [[-1.0, 0.01 * i] for i in range(6)]).double()
    logits = torch.tensor([[0.0, 1.0]] + [[2.0, 0.0]] * 5 + [[0.0, 2.0]] * 6).double()
    assert agreed(logits, nearest(f)).argmax(1).tolist() == [0] * 6 + [1] * 6


def test_lame_agrees_over_passes_on_what_the_classifier_reads():
    method, passes = trained(), [plate(0), plate(1, N=5)]
    found, cut = lame(method, passes), lame(method, [torch.cat(passes)])
    assert worst(torch.cat(found), cut[0]) < 1e-9
    with torch.no_grad():
        x = torch.cat(passes)
        f, p = method.features(x).numpy(), method.predict(x).softmax(1).numpy()
    np.testing.assert_allclose(cut[0].exp().numpy(), slow_lame(p, slow_nearest(f, 5)), rtol=0, atol=1e-5)


# label shift


def likelihood(p, q, pi):
    return np.log(p @ (q / pi)).mean(0)


@pytest.mark.parametrize("prior", [None, (0.7, 0.3)])
def test_em_finds_the_mix_of_highest_likelihood(prior):
    logits = 2 * torch.randn(200, 2, **f64) + torch.tensor([1.0, 0.0])
    pi = np.array(prior or (0.5, 0.5))
    p = logits.softmax(1).numpy()
    grid = np.linspace(0.0005, 0.9995, 1999)
    best = grid[np.argmax(likelihood(p, np.stack([grid, 1 - grid]), pi[:, None]))]
    moved = for_own_mix(logits, None if prior is None else torch.tensor(prior))
    ratio = (moved - logits)[0].exp().numpy()
    np.testing.assert_allclose(moved - logits, np.log(ratio)[None].repeat(200, 0), rtol=0, atol=1e-12)
    assert ratio * pi == pytest.approx([best, 1 - best], abs=1e-3)
    assert 0.02 < best < 0.98


def test_certain_predictions_are_counted():
    """With posteriors of 0 and 1, q is the share of each class, and the corrected logits add log q / pi."""
    y = torch.tensor([0] * 6 + [1] * 3 + [2])
    logits = 200 * torch.nn.functional.one_hot(y, 4).double()
    added = (for_own_mix(logits) - logits)[0]
    assert added[:3].exp().tolist() == pytest.approx([4 * 0.6, 4 * 0.3, 4 * 0.1])
    assert math.isfinite(float(added[3])) and float(added[3]) < -50


def test_the_true_mix_comes_back_from_calibrated_posteriors():
    """Two Gaussians with known densities, learned half and half, met one in ten."""
    y = (torch.arange(20000) < 18000).double()
    x = torch.randn(20000, **f64) + y
    logits = torch.stack([-(x**2) / 2, -((x - 1) ** 2) / 2], 1)  # log densities, and uniform prior
    ratio = (for_own_mix(logits) - logits)[0].exp()
    assert (ratio / 2).tolist() == pytest.approx([0.1, 0.9], abs=0.02)
    right = [float((z.argmax(1) == y).double().mean()) for z in (logits, for_own_mix(logits))]
    assert right[1] > 0.89 > 0.72 > right[0]


def test_it_follows_any_adapter_over_the_whole_bio_batch():
    method, passes = trained(), [plate(0), plate(1, N=5)]
    for adapter in (running_statistics, own_statistics):
        found = corrected(adapter)(method, passes)
        assert [len(z) for z in found] == [12, 5]
        assert worst(torch.cat(found), for_own_mix(torch.cat(adapter(method, passes)))) < 1e-12
