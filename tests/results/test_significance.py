"""leaderboard/significance.py: tests by seed, against scipy, closed forms and slow definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from abra_wilds.board.tables.rows import layout
from abra_wilds.results.significance import agreement, holm, mean_std, paired_t, welch, welch_range


def test_standard_deviations_divide_by_one_less():
    assert mean_std([1.0, 3.0]) == (2.0, math.sqrt(2))
    assert mean_std([7.0]) == (7.0, None)


def test_three_pairs_by_hand():
    """Differences 1, 2, 3: mean 2, deviation 1, t = 2 sqrt 3; for two degrees p = 1 - t / sqrt(t^2 + 2)."""
    found = paired_t([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    t = 2 * math.sqrt(3)
    assert (found.n, found.difference, found.d_z) == (3, 2.0, 2.0)
    assert found.p == pytest.approx(1 - t / math.sqrt(t**2 + 2), rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_test_is_scipys_and_the_effect_is_t_over_root_n(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(70, 1, n), rng.normal(69, 1, n)
    found, expected = paired_t(list(a), list(b)), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert found.d_z * math.sqrt(n) == pytest.approx(expected.statistic, rel=1e-9)


def test_the_order_of_the_seeds_matters_and_the_sign_follows_the_first():
    a, b = [1.0, 2.0, 4.0], [0.5, 1.0, 2.5]
    assert paired_t(a, b).p < paired_t(a, b[::-1]).p
    assert paired_t(b, a).difference == -paired_t(a, b).difference < 0


def test_one_pair_has_a_difference_and_no_test():
    found = paired_t([3.0], [1.0])
    assert (found.n, found.difference, found.d_z, found.p) == (1, 2.0, None, None)


@pytest.mark.parametrize(
    ("right", "n", "more"), [((700, 731, 702), 1536, 26), ((9000, 9111, 9223), 34432, 101)]
)
def test_the_rounding_of_accuracies_as_wilds_computes_them_is_no_spread(right, n, more):
    a, b = ([100 * float(np.float32(r + extra) / np.float32(n)) for r in right] for extra in (more, 0))
    assert len({x - y for x, y in zip(a, b, strict=True)}) > 1
    assert paired_t(a, b).p is None
    a[0] += 100 / n
    assert paired_t(a, b).p is not None


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_without_spread_there_is_no_test_also_where_rounding_leaves_a_trace(gap):
    b = [0.1, 0.2, 0.7]
    found = paired_t([x + gap for x in b], b)
    assert found.difference == pytest.approx(gap) and found.d_z is None and found.p is None


def slow_holm(ps):
    """The definition: of every p the largest of (m - j + 1) p_j over the j-th smallest up to it."""
    m, smallest = len(ps), sorted(ps)
    return [
        min(1.0, max((m - j) * q for j, q in enumerate(smallest) if q <= p and smallest.index(q) <= j))
        for p in ps
    ]


def test_holm_by_hand_and_by_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []
    for seed in range(20):
        ps = list(np.random.default_rng(seed).uniform(0, 0.3, 6))
        assert holm(ps) == pytest.approx(slow_holm(ps), rel=1e-12)


def slow_welch(a, b):
    """Welch's t and its degrees of freedom (Satterthwaite), written out."""
    (m, s, n), (k, t, o) = a, b
    va, vb = s**2 / n, t**2 / o
    df = (va + vb) ** 2 / (va**2 / (n - 1) + vb**2 / (o - 1))
    return 2 * stats.t.sf(abs(m - k) / math.sqrt(va + vb), df)


def test_welch_is_its_formula_and_takes_the_numbers_of_seeds():
    for a, b in (((74.6, 0.1, 5), (70.3, 0.2, 5)), ((39.2, 0.2, 3), (29.9, 0.4, 5))):
        assert welch(a, b) == pytest.approx(slow_welch(a, b), rel=1e-9) == welch(b, a)
    assert welch((1.0, 0.0, 5), (2.0, 0.0, 5)) is None
    assert welch_range((1.0, 0.0, 5), (2.0, 0.0, 5)) is None


@pytest.mark.parametrize(
    "pair",
    [((74.6, 0.1, 5), (70.3, 0.2, 5)), ((87.4, 0.1, 5), (87.1, 0.2, 5)), ((32.9, 0.3, 5), (28.7, 1.3, 5))],
)
def test_the_range_holds_every_p_that_rounds_to_the_printed_figures_but_for_a_fraction(pair):
    least, most = welch_range(*pair)
    (m, s, n), (k, t, o) = pair
    for d, e, f in np.random.default_rng(0).uniform(-0.05, 0.05, (300, 3)):
        p = slow_welch((m + 2 * d, s + e, n), (k, t + f, o))
        assert 0.75 * least <= p <= 1.01 * most


def test_published_figures_of_table_2_give_these_orders_of_magnitude():
    """Against ERM 70.3 (0.2), adapted ones against AdaBN 86.0 (0.1), five seeds, unpaired.

    The paper's own p-values are not among our sources; that all rows but AdvStyle are far below 0.001 holds
    however the figures were rounded.
    """
    table = layout(2)
    found = {(r.name, r.key[1]): table.welch(r) for r in table.rows}
    orders = {key: math.floor(math.log10(w[0])) for key, w in found.items() if w is not None}
    assert orders == {
        ("SimCLR", None): -6,
        ("BYOL", None): -7,
        ("DINOv2", None): -7,
        ("DSU", None): -6,
        ("AdvStyle", None): -3,
        ("AdvBayes", None): -13,
        ("ABRA", None): -8,
        ("AdvStyle", "plate_bn"): -8,
        ("ABRA", "plate_bn"): -7,
    }
    assert found["ERM", None] is None and found["AdaBN", "plate_bn"] is None
    for key, (p, least, most) in ((k, w) for k, w in found.items() if w is not None):
        assert least <= p <= most < (0.05 if key == ("AdvStyle", None) else 1e-4), key


def test_agreement_is_that_of_independent_series_by_the_exact_binomial_test():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    found, expected, p = agreement(a.tolist(), b.tolist())
    table = np.array([[((a == x) & (b == y)).sum() for y in range(4)] for x in range(4)])
    assert found == table.trace()
    assert expected == pytest.approx((table.sum(1) @ table.sum(0)) / 200**2)
    pmf = [math.comb(200, k) * expected**k * (1 - expected) ** (200 - k) for k in range(201)]
    assert p == pytest.approx(sum(q for q in pmf if q <= pmf[found] * (1 + 1e-9)))
