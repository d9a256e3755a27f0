"""Temperatures, estimates of accuracy, conformal quantiles: against closed forms and loops over images."""

import math

import numpy as np
import pytest
import torch

from abra_wilds.functional.calibration import (
    atc_threshold,
    conformal_quantile,
    difference_of_confidences,
    fit_temperature,
    grid_moments,
    label_likelihood,
    mass_scores,
    mass_threshold,
    pair_likelihood,
    random_effect,
    temperature_of,
)


def drawn(N=30, O=4, seed=0):
    """Logits, and labels that follow them."""
    rng = np.random.default_rng(seed)
    logits = 2 * torch.from_numpy(rng.normal(size=(N, O)))
    return logits, torch.from_numpy(np.array([rng.choice(O, p=p) for p in logits.softmax(1).numpy()]))


def test_the_temperature_of_two_classes_has_a_closed_form():
    """Logits (a, 0), a share q of label 0: sigmoid(a / T) = q."""
    y = torch.tensor([0] * 8 + [1] * 2)
    assert fit_temperature(torch.tensor([[3.0, 0.0]]).repeat(10, 1), y) == pytest.approx(3 / math.log(4))


def test_the_temperature_has_the_least_cross_entropy_and_a_bound():
    logits, y = drawn()
    T = fit_temperature(logits, y)
    loss = [float(torch.nn.functional.cross_entropy(logits / t, y)) for t in (0.99 * T, T, 1.01 * T)]
    assert loss[1] < min(loss[0], loss[2])
    assert fit_temperature(logits, logits.argmax(1), (0.5, 2)) == pytest.approx(0.5)
    assert fit_temperature(logits, logits.argmin(1), (0.5, 2)) == pytest.approx(2)


def test_a_temperature_gives_the_confidence_that_is_asked_for():
    z = torch.tensor([[1.5, 0.0], [0.0, 1.5]])
    assert temperature_of(z, 0.8) == pytest.approx(1.5 / math.log(4))
    assert temperature_of(z, 0.0) == pytest.approx(20) and temperature_of(z, 1.0) == pytest.approx(0.05)


def test_likelihoods_are_sums_over_images_and_pairs():
    a, y = drawn()
    b, log_T = drawn(seed=1)[0], torch.tensor([-0.5, 0.0, 1.0])
    for k, T in enumerate(np.exp(log_T.numpy())):
        p, q = (np.exp(x.numpy() / T) for x in (a, b))
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        pi = [np.mean([*p[:, c], *q[:, c]]) for c in range(4)]
        labels = sum(math.log(p[i, y[i]]) for i in range(30))
        pairs = sum(math.log(sum(p[i, c] * q[i, c] / pi[c] for c in range(4))) for i in range(30))
        assert float(label_likelihood(a, y, log_T)[k]) == pytest.approx(labels, rel=1e-6)
        assert float(pair_likelihood(a, b, log_T)[k]) == pytest.approx(pairs, rel=1e-5)


def test_pairs_find_the_temperature_of_views_that_are_independent_given_the_class():
    """x = s onehot(y) + noise has posterior softmax(s x); divided by T, that T is what pairs find."""
    generator, s, O, log_T = torch.Generator().manual_seed(0), 2.0, 10, torch.linspace(-2, 2, 81)
    y = torch.randint(O, (4000,), generator=generator)
    views = [s * torch.eye(O)[y] + torch.randn(4000, O, generator=generator) for _ in range(2)]
    for T in (0.5, 1.0, 2.0):
        found = log_T[pair_likelihood(s * T * views[0], s * T * views[1], log_T).argmax()]
        assert float(found) == pytest.approx(math.log(T), abs=0.06)


def test_a_normal_likelihood_on_the_grid_gives_the_product_of_two_normals():
    log_T = torch.linspace(-4, 4, 801)
    mean, var = grid_moments(-((log_T.double() - 0.5) ** 2) / (2 * 0.04), log_T, -0.1, 0.3)
    assert var == pytest.approx(1 / (1 / 0.04 + 1 / 0.09), rel=1e-4)
    assert mean == pytest.approx(var * (0.5 / 0.04 - 0.1 / 0.09), rel=1e-4)


def test_the_random_effect_is_weighted_least_squares_at_a_variance_that_expects_itself():
    rng = np.random.default_rng(0)
    x, error = rng.normal(size=12), rng.uniform(0.01, 0.2, 12)
    value = 1 - 0.5 * x + 0.4 * rng.normal(size=12) + np.sqrt(error) * rng.normal(size=12)
    m, b, var = random_effect(list(zip(value, error, strict=True)), list(x), slope=(0.2, 0.5), prior=(0.3, 4))
    w = 1 / (var + error)
    # The prior of the slope is one more row: b / 0.5 = 0.2 / 0.5.
    rows = np.vstack([np.sqrt(w)[:, None] * np.stack([np.ones(12), x], 1), [0, 1 / 0.5]])
    solved = np.linalg.lstsq(rows, np.append(np.sqrt(w) * value, 0.2 / 0.5), rcond=None)[0]
    assert (m, b) == pytest.approx(tuple(solved), rel=1e-4)
    u, left = var * w * (value - m - b * x), var * error * w
    assert var == pytest.approx((4 * 0.09 + (u**2 + left).sum()) / 16, rel=1e-3)


def test_a_known_intercept_leaves_the_slope_to_least_squares_through_it():
    values, x = [(1.0, 0.1), (3.0, 0.2), (2.0, 0.4)], [0.0, 1.0, 2.0]
    m, b, var = random_effect(values, x, slope=(0, 0.5), prior=(0.3, 4), intercept=0.7)
    w = [1 / (var + error) for _, error in values]
    top = sum(k * at * (value - 0.7) for k, at, (value, _) in zip(w, x, values, strict=True))
    assert m == 0.7
    assert b == pytest.approx(top / (sum(k * at**2 for k, at in zip(w, x, strict=True)) + 4), rel=1e-4)


def test_priors_that_are_worth_everything_stay():
    m, b, var = random_effect([(1.0, 0.1), (3.0, 0.1)], [0.0, 1.0], slope=(-1, 1e-6), prior=(0.3, 1e9))
    assert (m, b, var) == pytest.approx((2.5, -1, 0.09))


@pytest.mark.parametrize("right", [0, 1, 4, 7])
def test_as_many_images_reach_the_threshold_of_atc_as_are_right(right):
    confidence = torch.rand(7, generator=torch.Generator().manual_seed(0))
    correct = torch.arange(7) < right
    assert int((confidence >= atc_threshold(confidence, correct)).sum()) == right


def test_doc_is_accuracy_less_the_fall_in_confidence():
    confidence, correct = torch.tensor([0.6, 0.8]), torch.tensor([True, False])
    assert difference_of_confidences(confidence, correct, torch.tensor([0.5, 0.6])) == pytest.approx(0.35)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_of_exchangeable_scores_the_quantile_covers_what_the_correction_promises(level):
    """Each of 20 scores in turn is the new one: ceil(20 level) of them are covered, exactly."""
    scores = torch.randn(20, generator=torch.Generator().manual_seed(1))
    left = [(scores[i], torch.cat([scores[:i], scores[i + 1 :]])) for i in range(20)]
    covered = sum(float(one) <= conformal_quantile(rest, level) for one, rest in left)
    assert covered == math.ceil(20 * level - 1e-9)


def test_too_few_scores_promise_nothing():
    assert conformal_quantile(torch.arange(8.0), 0.9) == math.inf
    assert conformal_quantile(torch.arange(9.0), 0.9) == 8
    assert conformal_quantile(torch.zeros(0), 0.5) == math.inf


def test_a_weight_of_two_is_a_score_twice():
    scores, weights = torch.tensor([3.0, 1.0, 2.0, 5.0]), torch.tensor([1.0, 3.0, 2.0, 2.0])
    twice = torch.repeat_interleave(scores, weights.long())
    for level in (0.2, 0.5, 0.7, 0.85):
        assert conformal_quantile(scores, level, weights) == conformal_quantile(twice, level)


def test_scores_of_mass_are_sums_over_all_pairs_that_are_no_less_likely():
    logits, y = drawn(N=9)
    p = torch.cat([logits, logits[:1]]).softmax(1)  # ties
    y = torch.cat([y, y[:1]])
    slow = [float(p[p >= p[i, y[i]]].sum()) / 10 for i in range(10)]
    assert mass_scores(p, y).tolist() == pytest.approx(slow)


def test_a_label_is_in_the_set_of_a_mass_where_its_score_is():
    logits, y = drawn(N=12)
    p = logits.softmax(1)
    scores = mass_scores(p, y)
    for v in scores.tolist():
        threshold = mass_threshold(p, v - 1e-9)
        assert torch.equal(p.gather(1, y[:, None])[:, 0] >= threshold, scores <= v)
        assert float(p[p >= threshold].sum()) / 12 == pytest.approx(v)


@pytest.mark.parametrize("mass", [1.0, math.inf])
def test_all_of_the_mass_takes_all_classes(mass):
    assert mass_threshold(drawn()[0].softmax(1), mass) == 0
