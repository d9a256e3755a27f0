"""Balanced accuracy against scikit-learn, spread of the class mix against loops and its two ends."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from abra_wilds.functional.classes import balanced_accuracy, class_mix_spread


def drawn(seed, n=200, O=7):
    """Predictions, some of classes that do not occur, and class ids with gaps, in uneven numbers."""
    rng = np.random.default_rng(seed)
    y = 3 * rng.choice(O, size=n, p=np.arange(1, O + 1) / (O * (O + 1) / 2))
    return np.where(rng.random(n) < 0.4, y, rng.integers(0, 3 * O + 5, n)), y


@pytest.mark.parametrize("seed", range(5))
def test_balanced_accuracy_is_scikit_learns(seed):
    y_pred, y = drawn(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes")
        wanted = balanced_accuracy_score(y, y_pred)
    assert balanced_accuracy(torch.tensor(y_pred), torch.tensor(y)) == pytest.approx(wanted, abs=1e-12)
    assert abs(wanted - (y_pred == y).mean()) > 1e-3


def test_images_of_a_class_count_once_however_many_they_are():
    y_pred, y = map(torch.tensor, drawn(0))
    rare = y == 3
    often = torch.cat([y, *[y[rare]] * 9]), torch.cat([y_pred, *[y_pred[rare]] * 9])
    assert balanced_accuracy(often[1], often[0]) == pytest.approx(balanced_accuracy(y_pred, y), abs=1e-12)


def slow_spread(y, g):
    """1 / (1 + kappa) by moments, in fractions, one image after another."""
    y, g = y.tolist(), g.tolist()
    pi = {c: Fraction(y.count(c), len(y)) for c in set(y)}
    seen, alone = [], []
    for name in set(g):
        own = [c for c, b in zip(y, g, strict=True) if b == name]
        far = sum((Fraction(own.count(c), len(own)) - p) ** 2 for c, p in pi.items())
        seen.append(far / (1 - sum(p**2 for p in pi.values())))
        alone.append(Fraction(1, len(own)))
    excess = sum(seen) - sum(alone)
    return float(min(max(excess / sum(1 - a for a in alone), 0), 1))


@pytest.mark.parametrize("seed", range(5))
def test_the_spread_of_the_class_mix_is_that_of_loops(seed):
    rng = np.random.default_rng(seed)
    g = 10 * rng.integers(0, 6, 150)
    y = np.where(rng.random(150) < 0.5, g // 10, rng.integers(0, 9, 150))
    found = class_mix_spread(torch.tensor(y), torch.tensor(g))
    assert 0.1 < found < 0.9 and found == pytest.approx(slow_spread(y, g), abs=1e-12)


def test_the_spread_is_0_where_all_hold_the_classes_alike_and_1_where_each_holds_one():
    g = torch.arange(4).repeat_interleave(6)
    assert class_mix_spread(torch.arange(6).repeat(4), g) == 0
    assert class_mix_spread(g + 5, g) == pytest.approx(1)
