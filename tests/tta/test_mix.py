"""The class mix of a bio-batch: slow re-implementations, and what balanced, clear and known classes do."""

import math

import numpy as np
import pytest
import torch

from abra_wilds.tta.mix import CLEAR, DOUBT, MOST, Reliability, class_mix, no_labels, reliability, scale_of

O = 4
PI = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
GOOD = Reliability(slope=0.9, bias=1e-3, noise=0.2)
WEAK = Reliability(slope=0.2, bias=0.03, noise=0.2)


def drawn(counts, n=40, seed=0, sharp=4.0):
    """Posteriors (n, O) and labels (n,) of images whose classes follow frequencies."""
    rng = np.random.default_rng(seed)
    shares = torch.as_tensor(counts).double()
    y = torch.from_numpy(rng.choice(O, p=(shares / shares.sum()).numpy(), size=n))
    z = torch.from_numpy(rng.normal(size=(n, O)))
    z[torch.arange(n), y] += sharp
    return z.softmax(1), y


def reliability_by_hand(posteriors, labels, pi):
    """Loops over bio-batches and images; n - 1 in the variance of errors."""
    pi, scale = pi.numpy(), 1 - float((pi**2).sum())
    along = squares = 0.0
    for q, y in zip(posteriors, labels, strict=True):
        for i in range(len(y)):
            truth = np.eye(O)[y[i]] - pi
            along += (q[i].numpy() - pi) @ truth
            squares += truth @ truth
    slope, biases, noises = along / squares, [], []
    for q, y in zip(posteriors, labels, strict=True):
        n = len(y)
        errors = [q[i].numpy() - pi - slope * (np.eye(O)[y[i]] - pi) for i in range(n)]
        if n > 1:
            mean = sum(errors) / n
            noises.append(sum(((e - mean) ** 2).sum() for e in errors) / (n - 1) / scale)
            biases.append((mean**2).sum() / scale - noises[-1] / n)
    return slope, max(np.mean(biases), 1e-6), np.mean(noises)


def test_reliability_is_that_of_loops_over_bio_batches_and_images():
    parts = [
        drawn(counts, n, seed) for seed, (counts, n) in enumerate([(PI, 30), ([1, 0, 0, 5], 9), (PI, 1)])
    ]
    found = reliability([p for p, _ in parts], [y for _, y in parts], PI)
    wanted = reliability_by_hand([p for p, _ in parts], [y for _, y in parts], PI)
    np.testing.assert_allclose([found.slope, found.bias, found.noise], wanted, rtol=1e-10)
    assert 0.5 < found.slope < 1 and found.noise > 0


def test_posteriors_that_are_the_labels_are_believed_and_such_that_say_nothing_are_not():
    labels = [drawn([1, 1, 1, 1], seed=k)[1] for k in range(20)]
    exact = reliability([torch.eye(O)[y] for y in labels], labels, PI)
    assert (exact.slope, exact.bias) == (pytest.approx(1), 1e-6) and exact.noise < 1e-12
    silent = reliability([PI.expand(len(y), O) for y in labels], labels, PI)
    assert silent.slope == 1e-3 and silent.bias < 1e-4
    one_each = reliability([torch.eye(O)[y[:1]] for y in labels], [y[:1] for y in labels], PI)
    assert (one_each.bias, one_each.noise) == (1.0, 1.0), "single images tell no variance"


def mix_by_hand(posteriors, known, pi, usual, reliable, support, few):
    """Sums over images in plain numbers."""
    pi, n = pi.tolist(), len(known)
    given = [sum(k == c for k in known) / n for c in range(O)]
    m = sum(k < 0 for k in known)
    rest = [max(p - t, 0) + 1e-12 for p, t in zip(pi, given, strict=True)]
    rest = [r / sum(rest) for r in rest]
    q = [sum(float(p[c]) for p, k in zip(posteriors, known, strict=True) if k < 0) / m for c in range(O)]
    d = [a - b for a, b in zip(q, rest, strict=True)]
    scale = 1 - sum(r**2 for r in rest)
    error, beta = reliable.bias + reliable.noise / m, reliable.slope
    unit = max(beta**2, CLEAR * error)
    unusual = support * min((sum(x**2 for x in d) / scale - CLEAR * error) / unit, 1)
    few = min(few, sum(x**2 for x in d) / scale / beta**2)
    V, beyond_chance = max(unusual, max(usual, few) + 1 / m), min(max(unusual, usual, few), MOST)
    gain = beta * V / (beta**2 * V + error)
    estimate = [max(r + gain * x, 0) for r, x in zip(rest, d, strict=True)]
    p = [t + m / n * x / sum(estimate) for t, x in zip(given, estimate, strict=True)]
    kappa = 1 / beyond_chance - 1 if beyond_chance > 0 else math.inf
    return p, V, (m / n) ** 2 * V * DOUBT * error / (beta**2 * V + DOUBT * error), kappa


@pytest.mark.parametrize("few", [-0.3, 0.2, 1.1])
@pytest.mark.parametrize("support", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("usual", [0.0, 0.3])
@pytest.mark.parametrize("controls", [0, 1, 17])
@pytest.mark.parametrize("counts", [[4, 3, 2, 1], [0, 0, 1, 9], [0, 0, 0, 1]])
@pytest.mark.parametrize("reliable", [GOOD, WEAK])
def test_the_mix_is_that_of_sums_over_images(reliable, counts, controls, usual, support, few):
    posteriors, y = drawn(counts)
    known = no_labels(posteriors)
    known[:controls] = y[:controls]
    found = class_mix(posteriors, known, PI, usual, reliable, support, few)
    p, V, U, kappa = mix_by_hand(posteriors, known.tolist(), PI, usual, reliable, support, few)
    np.testing.assert_allclose(found.frequencies, p, atol=1e-12)
    assert (found.spread, found.doubt, found.kappa) == (
        pytest.approx(V),
        pytest.approx(U),
        pytest.approx(kappa),
    )
    assert found.frequencies.sum() == pytest.approx(1) and (found.frequencies >= 0).all()
    assert 0 <= found.doubt <= found.spread


def exact_posteriors(counts):
    """Posteriors that are sure of their class, and the mix that they show."""
    y = torch.repeat_interleave(torch.arange(O), torch.tensor(counts))
    return torch.eye(O)[y].double(), torch.bincount(y, minlength=O) / len(y)


def test_a_balanced_bio_batch_has_the_training_mix():
    posteriors, _ = exact_posteriors([16, 12, 8, 4])
    found = class_mix(posteriors, no_labels(posteriors), PI, 0.0, GOOD)
    torch.testing.assert_close(found.frequencies, PI)
    assert (found.spread, found.kappa) == (1 / 40, math.inf)


def test_a_clear_deviation_moves_the_mix_if_it_is_borne_out_and_an_unclear_one_does_not():
    posteriors, mix = exact_posteriors([0, 0, 0, 40])

    def distance(support, reliable=GOOD):
        found = class_mix(posteriors, no_labels(posteriors), PI, 0.0, reliable, support)
        return float((found.frequencies - mix).abs().sum()), found.spread

    (far, least), (near, most) = distance(0.0), distance(1.0)
    assert near < 0.05 < 0.2 < far and (least, most) == (1 / 40, 1)
    unclear = Reliability(0.9, 1.0, 1.0)
    assert distance(1.0, unclear)[1] == 1 / 40 and distance(1.0, unclear)[0] > 1.5


def test_known_controls_count_as_what_they_are_and_posteriors_of_theirs_do_not_enter():
    posteriors, _ = drawn(PI)
    known = no_labels(posteriors)
    known[:10] = 2
    found = class_mix(posteriors, known, PI, 0.0, GOOD)
    other = posteriors.clone()
    other[:10] = torch.eye(O)[0].double()
    assert torch.equal(found.frequencies, class_mix(other, known, PI, 0.0, GOOD).frequencies)
    assert found.frequencies[2] > 0.25
    # The others are expected to fill the training mix up; with doubts without end they are taken to.
    blind = class_mix(posteriors, known, PI, 0.0, Reliability(0.9, 1e9, 1e9))
    rest = torch.tensor([0.4, 0.3, 0.0, 0.1], dtype=torch.float64)
    wanted = torch.tensor([0.0, 0.0, 0.25, 0.0], dtype=torch.float64) + 0.75 * rest / rest.sum()
    torch.testing.assert_close(blind.frequencies, wanted, rtol=0, atol=1e-6)


def test_where_all_classes_are_known_the_mix_is_theirs_without_doubt():
    posteriors, y = drawn([1, 1, 1, 1])
    found = class_mix(posteriors, y, PI, 0.0, GOOD)
    torch.testing.assert_close(found.frequencies, torch.bincount(y, minlength=O).double() / 40)
    assert (found.spread, found.doubt, found.kappa) == (1 / 40, 0, math.inf)


def test_one_image_and_one_class_are_no_special_cases():
    one = class_mix(torch.eye(O)[:1].double(), torch.tensor([-1]), PI, 0.0, GOOD)
    assert one.frequencies.sum() == pytest.approx(1) and (one.frequencies >= 0).all() and one.spread == 1
    single = class_mix(torch.ones(5, 1), torch.full((5,), -1), torch.ones(1), 0.0, GOOD)
    assert single.frequencies.tolist() == [1.0] and scale_of(torch.ones(1)) == 1e-12
