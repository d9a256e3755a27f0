"""Logits by what other images of a bio-batch show: by hand, end points, and what clear classes do."""

import math

import numpy as np
import pytest
import torch

from abra_wilds.tta.own_mix import BY_MIX, BY_NEIGHBOURS, ROUNDS, by_own_mix
from tests.helpers import worst

N, O, D, K = 14, 4, 6, 5
PI = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
OPEN = torch.full((N,), -1)


def drawn(seed=0, n=N, sharp=2.0, classes=O):
    """Logits (n, O), features (n, D) and classes (n,)."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=rng)
    z, f = torch.randn(n, O + D, generator=rng, dtype=torch.float64).split([O, D], 1)
    z[torch.arange(n), y] += sharp
    return z, f + 2 * torch.eye(D).double()[y], y


def by_hand(logits, features, known, pi, kappa):
    """Loops over images and classes in plain numbers."""
    z, f = logits.numpy(), features.numpy()
    rows = [i for i, k in enumerate(known.tolist()) if k < 0]
    m, k = len(rows), min(K, len(rows) - 1)

    def softmax(v):
        e = np.exp(v - max(v))
        return e / e.sum()

    def cosine(i, j):
        return f[i] @ f[j] / math.sqrt((f[i] @ f[i]) * (f[j] @ f[j]))

    near = {i: sorted((j for j in rows if j != i), key=lambda j, i=i: -cosine(i, j))[:k] for i in rows}
    p = {i: softmax(z[i]) for i in rows}
    found = z.copy()
    for _ in range(ROUNDS):
        new = {}
        for i in rows:
            found[i] = z[i]
            for c in range(len(pi)):
                mix = (kappa * pi[c] + sum(p[j][c] for j in rows if j != i)) / (kappa + m - 1)
                alike = sum(p[j][c] for j in near[i])
                found[i][c] += (
                    BY_MIX * math.log(mix / pi[c]) + BY_NEIGHBOURS * (m - 1 - k) / (kappa + m - 1) * alike
                )
            new[i] = softmax(found[i])
        p = new
    return found


@pytest.mark.parametrize("kappa", [0.3, 2.0, 50.0])
@pytest.mark.parametrize("controls", [0, 3, N - 2])
def test_logits_are_those_of_loops_over_images_and_classes(kappa, controls):
    z, f, y = drawn()
    known = OPEN.clone()
    known[:controls] = y[:controls]
    found = by_own_mix(z, f.float(), known, PI, kappa)
    np.testing.assert_allclose(
        found.softmax(1), torch.tensor(by_hand(z, f, known, PI, kappa)).softmax(1), atol=1e-5
    )
    assert torch.equal(found[:controls], z[:controls]) and worst(found, z) > 1e-3


def test_an_infinite_kappa_or_one_unknown_image_change_nothing_bit_for_bit():
    z, f, y = drawn()
    assert by_own_mix(z, f, OPEN, PI, math.inf) is z
    assert by_own_mix(z[:1], f[:1], OPEN[:1], PI, 0.5).equal(z[:1])
    known = y.clone()
    known[4] = -1
    assert torch.equal(by_own_mix(z, f, known, PI, 0.5), z)


def test_images_that_show_the_training_mix_each_keep_their_predictions():
    z = PI.log().expand(N, O)
    found = by_own_mix(z, drawn()[1], OPEN, PI, 0.5).softmax(1)
    alike = BY_NEIGHBOURS * (N - 1 - K) / (N - 0.5) * K
    wanted = PI.clone()
    for _ in range(200):
        mix = (0.5 * PI + (N - 1) * wanted) / (N - 0.5)
        wanted = (PI.log() + BY_MIX * (mix / PI).log() + alike * wanted).softmax(0)
    torch.testing.assert_close(found, wanted.expand(N, O), rtol=0, atol=1e-5)
    single = by_own_mix(torch.zeros(N, 1), drawn()[1], OPEN, torch.ones(1), 0.5)
    assert single.softmax(1).eq(1).all()


def test_where_one_class_prevails_an_open_image_becomes_it_and_a_clear_one_does_not():
    z, f, _ = drawn(classes=1, sharp=4.0)
    z[0], z[1] = torch.tensor([0.0, 0.5, 0.0, 0.0]).double(), torch.tensor([0.0, 9.0, 0.0, 0.0]).double()
    found = by_own_mix(z, f, OPEN, PI, 0.5)
    assert (z[0].argmax(), found[0].argmax(), found[1].argmax()) == (1, 0, 1)
    strong = by_own_mix(z, f, OPEN, PI, 1e6)
    assert strong[0].argmax() == 1, "with a strong prior the mix is that of training"


def test_neither_order_of_images_nor_posteriors_of_known_ones_matter_to_the_others():
    z, f, y = drawn(3)
    known = OPEN.clone()
    known[[2, 5]] = y[[2, 5]]
    found = by_own_mix(z, f, known, PI, 1.0)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert worst(by_own_mix(z[order], f[order], known[order], PI, 1.0), found[order]) < 1e-9
    other = z.clone()
    other[[2, 5]] = -z[[2, 5]]
    again = by_own_mix(other, f, known, PI, 1.0)
    assert torch.equal(again[known < 0], found[known < 0])


def test_single_precision_stays():
    z, f, _ = drawn()
    found = by_own_mix(z.float(), f.half(), OPEN, PI, 1.0)
    assert found.dtype == torch.float32 and found.isfinite().all()
