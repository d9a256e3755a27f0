"""CiLISI and BRAS against loops over wells, and scib-metrics' own on the same input."""

import numpy as np
import pytest
from scipy.optimize import brentq

from abra_wilds.analysis.metrics import integration
from tests.analysis.made_wells import embedded, measured_on, parts, wells

scib_metrics = pytest.importorskip("scib_metrics", reason="the extra scib is not installed")


def slow_lisi(f, names, k):
    """The inverse Simpson index among k - 1 neighbours, weighted by a normal kernel of perplexity k // 3."""
    found = []
    for i in range(len(f)):
        d = np.linalg.norm(f - f[i], axis=1)
        near = [j for j in np.argsort(d, kind="stable") if j != i][: k - 1]

        def weights(beta, d=d, near=near):
            w = np.exp(-beta * (d[near] - d[near].min()))
            return w / w.sum()

        def excess(log_beta, weights=weights):
            w = weights(np.exp(log_beta))
            return -(w * np.log(np.maximum(w, 1e-300))).sum() - np.log(k // 3)

        w = weights(np.exp(brentq(excess, -20, 10)))
        found.append(1 / sum(w[names[near] == name].sum() ** 2 for name in set(names)))
    return np.array(found)


def slow_bras(f, batch):
    """1 minus the absolute silhouette by cosine, whose other distance is the mean over all other wells."""
    unit = f / np.linalg.norm(f, axis=1, keepdims=True)
    d = 1 - unit @ unit.T
    found = []
    for i in range(len(f)):
        own = batch == batch[i]
        a = d[i, own].sum() / (own.sum() - 1)
        b = d[i, ~own].mean()
        found.append(1 - abs(b - a) / max(a, b))
    return np.mean(found)


@pytest.mark.parametrize("apart", [0, 2])
def test_cilisi_is_the_inverse_simpson_index_of_neighbours_from_0_to_1(apart):
    table = wells(3, 10, 1)
    f, (batch, _) = embedded(table, apart, 1).astype(np.float64), parts(table)
    expected = (slow_lisi(f, batch, len(f)) - 1) / 2
    found = integration.cilisi(f, measured_on(table))
    assert found.value == pytest.approx(expected.mean(), abs=2e-3)
    assert found.parts[0].sum() / found.parts[1].sum() == pytest.approx(found.value)


def test_cilisi_is_scib_metrics_own_mean():
    table = wells(3, 40, 1)
    f, (batch, _) = embedded(table, 1, 1), parts(table)
    near = scib_metrics.nearest_neighbors.jax_approx_min_k(f, integration.NEIGHBOURS)
    theirs = scib_metrics.lisi_knn(near, batch)
    found = integration.cilisi(f, measured_on(table))
    assert found.value == pytest.approx((theirs.mean() - 1) / 2, abs=1e-4)


def test_bras_is_a_loop_over_wells_and_scib_metrics_own():
    table = wells(3, 10, 1)
    f, (batch, _) = embedded(table, 1, 1).astype(np.float64), parts(table)
    found = integration.bras(f, measured_on(table))
    assert found.value == pytest.approx(slow_bras(f, batch), abs=1e-4)
    assert found.value == pytest.approx(scib_metrics.bras(f, np.array(["one"] * len(f)), batch), abs=1e-6)


@pytest.mark.parametrize("measure", [integration.cilisi, integration.bras])
def test_mixed_experiments_are_near_the_chance_of_shuffled_ones_and_those_apart_below(measure):
    table = wells(3, 30, 1)
    own = measured_on(table)
    mixed, apart = measure(embedded(table, 0, 1), own), measure(embedded(table, 5, 1), own)
    assert abs(mixed.value - mixed.chance) < 0.05 < 0.3 < mixed.value - apart.value
    assert measure(embedded(table, 0, 1), own).chance == mixed.chance, "by a fixed seed"
