"""How many classes a bio-batch holds by how far its images lie apart: by hand, one class and many, errors."""

import numpy as np
import pytest
import torch

from abra_wilds.functional.effects import Effects
from abra_wilds.tta.diversity import (
    BIAS,
    SLIGHT,
    SURE,
    WORTH,
    apart,
    diversity,
    diversity_errors,
    fewer_classes,
)
from abra_wilds.tta.mix import Reliability
from tests.tta.made import effects

O, C = 6, 40
INSIDE = torch.ones(C).double()
PI = torch.tensor([0.3, 0.2, 0.2, 0.1, 0.1, 0.1], dtype=torch.float64)


def simplex(noise=1.0):
    """Effects of classes that lie equally far apart, each in channels of its own."""
    zero = torch.zeros(C).double()
    loadings = torch.eye(O).double().repeat_interleave(C // O + 1, 1)[:, :C]
    return Effects(torch.eye(O).double(), loadings, zero + 1, zero + noise**2)


def h_of(y, e, seed=0, shift=0.0, contrast=1.0):
    """What each image adds, of images (n, C) that are their class's effect and noise."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(y), C, generator=rng, dtype=torch.float64) * e.within.sqrt()
    m, v = shift + (e.scores @ e.loadings)[y] + noise, 0.5 + torch.rand(len(y), C, generator=rng).double()
    return diversity([apart(contrast * m, contrast**2 * v, INSIDE, e, PI)], len(y))


def drawn(shares, n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).choice(O, p=np.asarray(shares), size=n))


def test_it_is_that_of_loops_over_norms_channels_and_pairs_of_images():
    made = [effects(C, O, seed) for seed in (1, 2)]
    m = [torch.randn(9, C, generator=torch.Generator().manual_seed(k)).double() for k in (3, 4)]
    v, inside = torch.rand(9, C).double(), torch.rand(C).double()
    found = diversity([apart(x, v, inside, e, PI) for x, e in zip(m, made, strict=True)], 9)
    over = under = 0.0
    for x, e in zip(m, made, strict=True):
        a = (e.scores @ e.loadings).numpy()
        for c in range(C):
            of_classes = float(PI.numpy() @ a[:, c] ** 2 - (PI.numpy() @ a[:, c]) ** 2)
            pairs = [(float(x[i, c] - x[j, c]) ** 2) / 2 for i in range(9) for j in range(i)]
            w = of_classes / (of_classes + float(e.within[c])) ** 2
            r = float(v[:, c].mean() / inside[c])
            over += w * (sum(pairs) / len(pairs) / r - float(e.within[c]))
            under += w * of_classes
    assert float(found.mean()) == pytest.approx(over / under) and found.shape == (9,)


@pytest.mark.parametrize("shares", [PI.tolist(), [1, 0, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0, 0]])
def test_it_is_the_chance_that_two_images_differ_in_class_whatever_shifts_them(shares):
    """Equal distances: each class in as many channels, weighed alike where all are as frequent."""
    e = simplex(0.1)
    parts = [float(h_of(drawn(shares, 60, k), e, k, shift=5.0, contrast=0.3).mean()) for k in range(40)]
    a = e.scores @ e.loadings
    w = e.spread_of_mix(PI) / (e.spread_of_mix(PI) + e.within) ** 2
    spread = Effects(e.scores, e.loadings, e.between, e.within).spread_of_mix(torch.tensor(shares).double())
    wanted = float((w * spread).sum() / (w * e.spread_of_mix(PI)).sum())
    assert a.shape == (O, C) and np.mean(parts) == pytest.approx(wanted, abs=0.03)


def test_errors_are_those_of_loops_over_bio_batches_and_images():
    e = simplex()
    labels = [drawn(PI, n, n) for n in (30, 9, 1)]
    parts = [h_of(y, e, k) if len(y) > 1 else torch.ones(1) for k, y in enumerate(labels)]
    found = diversity_errors(parts, labels, PI)
    biases, noises = [], []
    for h, y in zip(parts[:2], labels[:2], strict=True):
        n = len(y)
        wrong = [
            float(h[i]) - (1 - float((y == y[i]).double().mean())) * n / (n - 1) / (1 - float((PI**2).sum()))
            for i in range(n)
        ]
        noises.append(np.var(wrong, ddof=1))
        biases.append(np.mean(wrong) ** 2 - noises[-1] / n)
    assert (found.slope, found.noise) == (1.0, pytest.approx(np.mean(noises)))
    assert found.bias == pytest.approx((WORTH * BIAS + sum(biases)) / (WORTH + 2))
    assert diversity_errors(parts[2:], labels[2:], PI) == Reliability(1.0, BIAS, 1.0), (
        "images alone tell nothing"
    )


def test_a_single_class_is_seen_and_balanced_images_or_none_say_nothing():
    e, small = simplex(0.5), Reliability(1.0, 0.01, 0.1)
    one, many = h_of(torch.zeros(20, dtype=torch.long), e), h_of(drawn(PI, 200), e)
    assert fewer_classes(one, small) == pytest.approx(1 - float(one.mean()) - SURE * 0.015**0.5)
    assert fewer_classes(one, small) > 0.7 and fewer_classes(many, small) == 0
    assert fewer_classes(one, Reliability(1.0, 4.0, 0.0)) == fewer_classes(one[:1], small) == 0
    exact = Reliability(1.0, 0.0, 0.0)
    assert fewer_classes(torch.full((9,), 0.999 - SLIGHT), exact) == pytest.approx(SLIGHT + 0.001)
    assert fewer_classes(torch.full((9,), 1.001 - SLIGHT), exact) == 0, "as little contrast would look"
    still = effects(C, O, classes=0.0)
    m, v = torch.randn(7, C).double(), torch.rand(7, C).double()
    assert torch.equal(diversity([apart(m, v, INSIDE, still, PI)], 7), torch.ones(7))
    assert torch.equal(diversity([], 3), torch.ones(3))
