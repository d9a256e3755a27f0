"""The weights of EPO against a search over the simplex."""

import numpy as np
import pytest

from abra_wilds.functional.pareto import imbalance, pareto_weights, solve_on_simplex
from tests import reference

UNIFORM = np.ones(3) / 3
PAIR = np.array([1e-12, 1e-4, 1 - 1e-12 - 1e-4])
STEPS = 300


def grid():
    """Every point of the simplex whose coordinates are multiples of 1 / STEPS."""
    return np.array(
        [(i, j, STEPS - i - j) for i in range(STEPS + 1) for j in range(STEPS + 1 - i)], dtype=float
    ) / STEPS  # fmt: skip


GRID = grid()


def problem(seed, balanced=False):
    """Losses and the inner products of their gradients, conflicting ones among them."""
    rng = np.random.default_rng(seed)
    G = rng.normal(size=(3, 4)) * rng.uniform(0.2, 2, size=(3, 1))
    return np.ones(3) if balanced else rng.uniform(0.1, 3, size=3), G @ G.T


def slow_programme(losses, C, r, eps):
    """Objective and list of (row, bound), loss by loss as methods.md's formulas and EPO state them."""
    rl = [r[j] * losses[j] for j in range(3)]
    share = [x / sum(rl) for x in rl]
    mu = sum(s * np.log(3 * s) for s in share)
    a = np.array([r[j] * (np.log(3 * share[j]) - mu) for j in range(3)])
    if mu <= eps:
        needs = [(C[j], 0.0) for j in range(3)] + [(C @ a, min(0.0, max(C @ a)))]
        return sum(C), needs
    needs = []
    for j in range(3):
        if rl[j] == max(rl):
            needs.append((C[j], 0.0))
        elif (C @ a)[j] <= 0:
            needs.append((C[j], (C @ a)[j]))
    return C @ a, needs


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_weights_are_feasible_and_no_point_of_a_fine_grid_is_better(seed, balanced):
    losses, C = problem(seed, balanced)
    r = UNIFORM if balanced else np.random.default_rng(seed + 100).dirichlet(np.ones(3))
    objective, needs = slow_programme(losses, C, r, 1e-4)
    feasible = np.all([GRID @ row >= bound - 1e-12 for row, bound in needs], axis=0)
    alpha = pareto_weights(losses, C, r)
    assert all(row @ alpha >= bound - 1e-8 for row, bound in needs)
    assert feasible.any()
    best = (GRID[feasible] @ objective).max()
    assert alpha @ objective >= best - 1e-8
    # The optimum of a linear programme is the limit of the grid's.
    near = np.all([GRID @ row >= bound - abs(row).max() / STEPS * 2 for row, bound in needs], axis=0)
    assert alpha @ objective <= (GRID[near] @ objective).max() + abs(objective).max() * 2 / STEPS


@pytest.mark.parametrize("r", [UNIFORM, PAIR, np.array([0.2, 0.3, 0.5])])
@pytest.mark.parametrize("seed", range(20))
def test_weights_lie_on_the_simplex(seed, r):
    alpha = pareto_weights(*problem(seed), r)
    assert (alpha >= 0).all()
    assert alpha.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_equal_losses_under_a_uniform_preference_descend_together(seed):
    losses, C = problem(seed, balanced=True)
    alpha = pareto_weights(losses, C, UNIFORM)
    assert (C @ alpha >= -1e-8 * np.abs(C).max()).all()
    if (C @ UNIFORM >= 0).all():
        assert C.sum(0) @ alpha >= C.sum(0) @ UNIFORM - 1e-8


@pytest.mark.parametrize("seed", range(20))
def test_away_from_balance_the_worst_preferred_loss_does_not_rise(seed):
    losses, C = problem(seed)
    alpha = pareto_weights(losses, C, UNIFORM)
    worst = losses.argmax()
    assert (C @ alpha)[worst] >= -1e-8 * np.abs(C).max()


def test_near_balance_the_imbalance_grows_no_faster_than_it_must():
    losses = np.array([1.005, 0.99, 1.005])
    mu, a = imbalance(losses, UNIFORM)
    assert 0 < mu < 1e-4
    v = np.array([-1.0, -3.0, -1.0])  # C a: whatever the weights, the imbalance grows
    C = np.outer(v, v) / (v @ a)
    np.testing.assert_allclose(C @ a, v, atol=1e-12)
    alpha = pareto_weights(losses, C, UNIFORM)
    assert alpha @ v == pytest.approx(v.max(), abs=1e-7)
    assert (C @ alpha >= -1e-8).all()


def test_steps_by_the_weights_bring_two_quadratics_to_the_preferred_ray_of_their_front():
    centres, r, x = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([0.8, 0.2]), np.array([-0.3, 0.9])
    for _ in range(800):
        losses = 1 - np.exp(-((x - centres) ** 2).sum(1))
        G = 2 * (x - centres) * np.exp(-((x - centres) ** 2).sum(1))[:, None]
        x = x - 0.03 * pareto_weights(losses, G @ G.T, r) @ G
    assert abs(x[1]) < 0.02  # the front is the segment between the centres
    assert r[0] * losses[0] == pytest.approx(r[1] * losses[1], rel=0.1)


def test_imbalance_is_the_divergence_from_uniform_and_a_is_its_scaled_gradient():
    losses, r = np.array([0.5, 2.0, 0.1]), np.array([0.2, 0.3, 0.5])
    mu, a = imbalance(losses, r)
    share = r * losses / (r @ losses)
    assert mu == pytest.approx(sum(s * np.log(s / (1 / 3)) for s in share), abs=1e-14)
    slope = reference.finite_differences(lambda x: imbalance(x, r)[0], losses)
    np.testing.assert_allclose(a, slope * (r @ losses), atol=1e-8)
    assert imbalance(1 / r, r)[0] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("size", [1e-14, 1e-6, 1e6])
def test_weights_do_not_depend_on_the_size_of_gradients_or_losses(size):
    for seed in range(10):
        losses, C = problem(seed)
        want = pareto_weights(losses, C, UNIFORM)
        np.testing.assert_allclose(pareto_weights(losses, size * C, UNIFORM), want, atol=1e-7)
        np.testing.assert_allclose(pareto_weights(size * losses, C, UNIFORM), want, atol=1e-7)


def test_an_unsolvable_programme_gives_the_preference():
    r = np.array([0.2, 0.3, 0.5])
    np.testing.assert_allclose(pareto_weights(1 / r, -np.eye(3), r), r, atol=1e-15)
    assert solve_on_simplex(np.ones(3), np.eye(3), np.full(3, 0.5)) is None


@pytest.mark.parametrize("losses", [np.zeros(3), np.array([1.0, np.nan, 1.0]), np.array([1.0, np.inf, 1.0])])
def test_losses_without_balance_give_the_preference(losses):
    np.testing.assert_allclose(pareto_weights(losses, np.eye(3), 2 * PAIR), PAIR, atol=1e-15)


def test_a_loss_of_exactly_zero_has_a_finite_logarithm():
    alpha = pareto_weights(np.array([1.0, 0.0, 2.0]), problem(3)[1], UNIFORM)
    assert np.isfinite(alpha).all()
    assert alpha.sum() == pytest.approx(1)
