"""Effects of classes and bio-batches: a ridge regression by its whole design, and simulated numbers."""

import numpy as np
import pytest
import torch

from abra_wilds.functional.effects import Effects, EffectSums, leading, mix_spread

O, G, C = 4, 6, 3


def screen(n=300, classes=O, groups=G, channels=C, seed=0, **spread):
    """Statistics M (n, C) of images, classes and bio-batches that are not crossed evenly; all in NumPy."""
    rng = np.random.default_rng(seed)
    g = rng.integers(groups, size=n)
    y = np.array([rng.choice(classes, p=rng.dirichlet(np.ones(classes))) for _ in g])
    scale = {"a": 0.7, "b": 1.5, "e": 0.5} | spread
    a = scale["a"] * rng.normal(size=(classes, channels))
    b = scale["b"] * rng.normal(size=(groups, channels))
    return 2.0 + a[y] + b[g] + scale["e"] * rng.normal(size=(n, channels)), y, g, a


def sums(M, y, g, classes=O, groups=G, cuts=()):
    """EffectSums of the images, taken in parts."""
    found = EffectSums(classes, groups, M.shape[1])
    for rows in np.split(np.arange(len(y)), cuts):
        found.add(*(torch.from_numpy(part[rows]) for part in (M, y, g)))
    return found


def by_hand(M, y, g, ridge, classes=O, groups=G):
    """Class effects about their mean, tau_b^2 and s^2, by rows of X and a covariance of each channel."""
    n = len(y)
    X = np.zeros((n, 1 + classes + groups))
    for i in range(n):
        X[i, 0] = X[i, 1 + y[i]] = X[i, 1 + classes + g[i]] = 1
    penalty = ridge * np.eye(X.shape[1])
    penalty[0, 0] = 0
    smoother = np.linalg.solve(X.T @ X + penalty, X.T)  # M -> beta
    hat = X @ smoother
    beta, residual = smoother @ M, M - hat @ M
    within = (residual**2).sum(0) / (n - np.trace(hat))
    b = beta[1 + classes :]
    centring = np.eye(groups) - 1 / groups
    covariance = centring @ (smoother @ smoother.T)[1 + classes :, 1 + classes :] @ centring
    between = b.var(0) - within * np.trace(covariance) / groups
    a = beta[1 : 1 + classes]
    return a - a.mean(0), np.maximum(between, 0), within


@pytest.mark.parametrize("ridge", [0.1, 1.0, 20.0])
def test_effects_are_those_of_a_ridge_regression_with_its_design_written_out(ridge):
    M, y, g, _ = screen()
    found = sums(M, y, g).effects(ridge)
    a, between, within = by_hand(M, y, g, ridge)
    np.testing.assert_allclose(found.scores @ found.loadings, a, atol=1e-10)
    np.testing.assert_allclose(found.between, between, rtol=1e-9)
    np.testing.assert_allclose(found.within, within, rtol=1e-9)


def test_adding_in_parts_is_adding_at_once():
    M, y, g, _ = screen()
    whole, parts = (sums(M, y, g, cuts=cuts).effects() for cuts in ((), (7, 8, 150)))
    for name in ("between", "within"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), rtol=1e-11, atol=0)
    torch.testing.assert_close(whole.scores @ whole.loadings, parts.scores @ parts.loadings)


def test_known_components_are_found_again():
    sizes = {"classes": 8, "groups": 200}
    M, y, g, a = screen(20_000, channels=40, seed=1, **sizes)
    found = sums(M, y, g, **sizes).effects()
    np.testing.assert_allclose(found.within.mean(), 0.25, rtol=0.01)
    np.testing.assert_allclose(found.between.mean(), 1.5**2, rtol=0.05)
    np.testing.assert_allclose(found.scores @ found.loadings, a - a.mean(0), atol=0.06)


def test_bio_batches_that_differ_by_sampling_alone_have_next_to_no_spread():
    """Of 100 bio-batches with 10 images each, means spread by s^2 / 10; that is taken off."""
    sizes = {"classes": O, "groups": 100}
    M, y, g, _ = screen(1000, channels=200, seed=2, b=0.0, **sizes)
    between = sums(M, y, g, **sizes).effects().between
    assert (between >= 0).all() and (between == 0).float().mean() > 0.3
    assert between.mean() < 0.1 * 0.25 / 10


def test_a_class_or_a_bio_batch_that_no_image_shows_has_no_effect():
    M, y, g, _ = screen()
    found, own = sums(M, y, g, O + 2, G + 1).effects(), sums(M, y, g).effects()
    effects = found.scores @ found.loadings
    torch.testing.assert_close(effects[O], effects[O + 1])
    torch.testing.assert_close(found.within, own.within)
    differences = effects[:O] - effects[:1], (own.scores - own.scores[:1]) @ own.loadings
    torch.testing.assert_close(*differences)


def test_leading_directions_are_exact_at_full_rank_and_the_nearest_below_it():
    a = torch.from_numpy(np.random.default_rng(3).normal(size=(6, 9)))
    centred = a - a.mean(0)
    scores, loadings = leading(a, 32)
    torch.testing.assert_close(scores @ loadings, centred)
    torch.testing.assert_close(scores.mT @ scores, torch.eye(6, dtype=torch.float64))
    tall = leading(a.mT, 32)
    torch.testing.assert_close(tall[0] @ tall[1], a.mT - a.mT.mean(0))
    torch.testing.assert_close(tall[1] @ tall[1].mT, torch.eye(6, dtype=torch.float64))
    scores, loadings = leading(a, 2)
    assert scores.shape == (6, 2) and loadings.shape == (2, 9)
    lost = torch.linalg.svdvals(centred)[2:]
    torch.testing.assert_close(((scores @ loadings - centred) ** 2).sum(), (lost**2).sum())


def test_a_mix_of_classes_has_their_mean_effect_and_their_variance():
    rng = np.random.default_rng(4)
    scores, loadings = rng.normal(size=(O, 2)), rng.normal(size=(2, C))
    found = Effects(*map(torch.from_numpy, (scores, loadings)), torch.ones(C), torch.ones(C))
    a = scores @ loadings
    for mix in (*rng.dirichlet(np.ones(O), size=3), np.eye(O)[1]):
        mean = sum(p * a[k] for k, p in enumerate(mix))
        spread = sum(p * (a[k] - mean) ** 2 for k, p in enumerate(mix))
        np.testing.assert_allclose(found.of_mix(torch.from_numpy(mix)), mean, atol=1e-12)
        np.testing.assert_allclose(found.spread_of_mix(torch.from_numpy(mix)), spread, atol=1e-12)
        assert (found.spread_of_mix(torch.from_numpy(mix)) >= 0).all()


def test_the_spread_of_class_mixes_is_its_closed_form():
    counts = torch.tensor([[3, 1, 0], [1, 5, 2], [4, 4, 4]])
    pi = np.array([8, 10, 6]) / 24
    total = scale = 0.0
    for row in counts.tolist():
        n = sum(row)
        total += sum((k / n - p) ** 2 for k, p in zip(row, pi, strict=True)) / (1 - (pi**2).sum()) - 1 / n
        scale += 1 - 1 / n
    assert mix_spread(counts) == pytest.approx(max(total / scale, 0), rel=1e-12)
    assert mix_spread(torch.tensor([[5, 5], [9, 9], [2, 2]])) == 0
    assert mix_spread(torch.tensor([[7, 0], [0, 7]])) == 1, "a class a bio-batch"
    assert mix_spread(torch.tensor([[4], [6]])) == 0, "one class"
    assert mix_spread(torch.tensor([[1, 0], [0, 1]])) == 0, "of single images nothing is known"


@pytest.mark.parametrize("kappa", [0.5, 5.0, 50.0])
def test_the_strength_of_a_dirichlet_is_found_again(kappa):
    rng = np.random.default_rng(5)
    pi = rng.dirichlet(np.full(10, 5.0))
    drawn = [rng.multinomial(rng.integers(20, 200), p) for p in rng.dirichlet(kappa * pi, size=2000)]
    assert mix_spread(torch.from_numpy(np.stack(drawn))) == pytest.approx(1 / (1 + kappa), rel=0.05)
