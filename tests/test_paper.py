"""One test per equation of arXiv 2603.05622, against NumPy that shares nothing with the package."""

import math

import numpy as np
import pytest
import torch

from abra_wilds.functional.losses import arcface, js_divergence
from abra_wilds.functional.stats import channel_stats, instance_stats, restyle
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.abra.perturbation import BatchShift, Insertion
from abra_wilds.types import Target
from tests import reference
from tests.helpers import (
    array,
    clean_map,
    gradients,
    magnitudes,
    make_batch,
    make_method,
    record_draws,
    target_arrays,
)

MIXED = pytest.mark.parametrize("w", [None, 0.63], ids=["hard", "cutmix"])
FREE = {"alpha": 0.3, "k_bound": math.inf, "k_init": 0.4}  # a step of K that is large and unbounded


def literal_parts(method, batch):
    """Clean features and Eq. 1 of the map at res4, and the heads, as arrays."""
    X = clean_map(method, batch)
    mu, sigma = reference.channel_stats(X, method.cfg.eps)
    return X, mu, sigma, [array(t) for t in (method.head.weight, method.head.bias, method.arc_weight)]


def literal_task(f, heads, batch, cfg):
    """Eq. 10 of features: weighted cross-entropy and ArcFace; and the class logits."""
    W, b, V = heads
    y, y_b, w = target_arrays(batch.target)
    Y, z = reference.dense(y, len(W), y_b, w), f @ W.T + b
    ce, arc = reference.cross_entropy(z, Y), reference.arcface(f, V, Y, cfg.margin, cfg.scale)
    return cfg.lam * ce + (1 - cfg.lam) * arc, z


def literal_shift(X, mu, sigma, noise, K):
    """Eqs. 7 and 8 on the map, then average pooling."""
    (e_mu, e_sigma), (K_mu, K_sigma) = [[array(t) for t in pair] for pair in (noise, K)]
    return reference.restyle(X, mu, sigma, e_mu * K_mu, e_sigma * K_sigma).mean((2, 3))


def assert_same_statistics(ours, slow):
    """mu and sigma of a map by both functions."""
    X = np.random.default_rng(0).normal(3.0, 2.0, size=(3, 4, 5, 2))
    for eps in (1e-6, 0.5):
        for got, want in zip(ours(torch.from_numpy(X), eps), slow(X, eps), strict=True):
            np.testing.assert_allclose(array(got), want, rtol=1e-13)


def test_eq1_mu_and_sigma_of_a_bio_batch_divide_by_N_h_w():
    assert_same_statistics(channel_stats, reference.channel_stats)


def test_eq4_mu_and_sigma_of_an_image_divide_by_h_w():
    assert_same_statistics(instance_stats, reference.instance_stats)


def test_eq7_shifts_a_map_and_leaves_it_with_mean_mu_plus_d_mu_and_deviation_sigma_plus_d_sigma():
    rng = np.random.default_rng(0)
    X = rng.normal(1.0, 2.0, size=(5, 3, 4, 4))
    mu, sigma = reference.channel_stats(X, 1e-12)
    d_mu, d_sigma = np.array([0.7, -1.3, 0.0]), np.array([0.4, -0.5, -5.0])
    X_t = array(restyle(*(torch.from_numpy(a) for a in (X, mu, sigma, d_mu, d_sigma))))
    np.testing.assert_allclose(X_t, reference.restyle(X, mu, sigma, d_mu, d_sigma), atol=1e-12)
    new_mu, new_sigma = reference.channel_stats(X_t, 0.0)
    np.testing.assert_allclose(new_mu, mu + d_mu, atol=1e-12)
    np.testing.assert_allclose(new_sigma, np.abs(sigma + d_sigma), atol=1e-9)


def test_eq8_shifts_are_K_times_noise_with_mu_and_sigma_apart():
    perturb = BatchShift(3, start=0.1, relative=True, bound=0.5)
    perturb.K_mu.copy_(torch.tensor([1.0, 2.0, -3.0]))
    perturb.K_sigma.copy_(torch.tensor([0.5, 0.0, 4.0]))
    noise = (torch.tensor([1.0, -1.0, 2.0]), torch.tensor([-2.0, 5.0, 0.25]))
    d_mu, d_sigma = perturb.shifts(noise, torch.ones(3))
    assert d_mu.tolist() == [1.0, -2.0, -6.0]
    assert d_sigma.tolist() == [-1.0, 0.0, 1.0]


def test_eq8_noise_is_standard_normal_with_mu_sigma_and_channels_independent():
    method = make_method("ABRA")
    C, n = 6, 2000
    point = Insertion(torch.zeros(1, C), torch.zeros(C).double(), torch.ones(C).double())
    torch.manual_seed(0)
    draws = [[array(e) for e in method.perturb.draw([point], make_batch())[0]] for _ in range(n)]
    draws = np.array(draws).reshape(n, 2 * C)
    assert abs(draws.mean(0)).max() < 5 / math.sqrt(n)
    np.testing.assert_allclose(np.cov(draws.T), np.eye(2 * C), atol=6 / math.sqrt(n))
    assert abs((draws**4).mean() - 3) < 0.2


@MIXED
def test_eq9_theta_descends_the_robust_loss_and_K_ascends_the_adversarial_one(w):
    batch = make_batch(w=w)
    method = make_method("ABRA", ABRAConfig(alpha=1e-3, reuse_noise=True))
    drawn = record_draws(method)
    out = method(batch)
    assert out.logs["L_adv_after"] > out.logs["L_adv"]
    found = gradients(method, out.loss)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            parameter -= 1e-3 * found[name]
    frozen = make_method("ABRA", ABRAConfig(alpha=0.0, reuse_noise=True))
    frozen.load_state_dict(method.state_dict())
    record_draws(frozen, drawn)
    assert frozen(batch).loss < out.loss


def test_eq9_theta_gets_no_gradient_through_K_and_K_none_from_the_robust_loss():
    method = make_method("ABRA", ABRAConfig(**FREE))
    out = method(make_batch())
    assert not any(K.requires_grad for pair in magnitudes(method).values() for K in pair)
    assert not any("K_" in name for name, _ in method.named_parameters())
    assert all(p.grad is None for p in method.parameters())
    assert out.loss.requires_grad


@pytest.mark.parametrize("reuse", [False, True])
def test_eq9_expectation_over_noise_draws_afresh_between_the_phases_and_steps(reuse):
    method = make_method("ABRA", ABRAConfig(reuse_noise=reuse))
    drawn = record_draws(method)
    method(make_batch())
    method(make_batch())
    assert len(drawn) == (2 if reuse else 4)
    flat = [e for noise in drawn for pair in noise for e in pair]
    assert all(not torch.equal(a, b) for i, a in enumerate(flat) for b in flat[:i])


@MIXED
def test_eq10_L_adv_is_lambda_ce_plus_rest_arc_of_shifted_features_without_js(w):
    cfg, batch = ABRAConfig(lam=0.7, js_weight=50.0, **FREE), make_batch(w=w)
    method = make_method("ABRA", cfg)
    X, mu, sigma, heads = literal_parts(method, batch)
    drawn = record_draws(method)
    logs = method(batch).logs
    first_K = torch.from_numpy(0.4 * sigma)
    f_t = literal_shift(X, mu, sigma, drawn[0][0], (first_K, first_K))
    assert logs["L_adv"].item() == pytest.approx(literal_task(f_t, heads, batch, cfg)[0], abs=1e-10)


def test_eq11_adds_the_margin_to_the_angle_of_the_true_class_only():
    rng = np.random.default_rng(0)
    f, V = rng.normal(size=(4, 3)), rng.normal(size=(6, 3))
    y, s, m = np.array([0, 5, 2, 2]), 7.0, 0.4
    total = 0.0
    for n in range(4):
        angles = [math.acos(f[n] @ v / np.linalg.norm(f[n]) / np.linalg.norm(v)) for v in V]
        assert angles[y[n]] + m < math.pi
        own = math.exp(s * math.cos(angles[y[n]] + m))
        others = sum(math.exp(s * math.cos(angles[o])) for o in range(6) if o != y[n])
        total -= math.log(own / (own + others)) / 4
    got = arcface(torch.from_numpy(f), torch.from_numpy(V), Target(torch.from_numpy(y)), m, s)
    assert got.mean().item() == pytest.approx(total, abs=1e-12)


@MIXED
def test_eq11_of_a_mixed_target_weighs_margin_and_log_probability_by_Y(w):
    rng = np.random.default_rng(0)
    f, V, batch = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)), make_batch(w=w)
    y, y_b, share = target_arrays(batch.target)
    want = reference.arcface(f, V, reference.dense(y, 5, y_b, share), 0.5, 30.0)
    got = arcface(torch.from_numpy(f), torch.from_numpy(V), batch.target, 0.5, 30.0)
    assert got.mean().item() == pytest.approx(want, abs=1e-11)


@MIXED
@pytest.mark.parametrize("lr, alpha, factor, step", [(0.2, None, 3.0, 0.6), (0.2, 0.05, 1.0, 0.05)])
def test_eq12_K_moves_by_plus_alpha_times_the_gradient_of_L_adv(w, lr, alpha, factor, step):
    cfg = ABRAConfig(alpha=alpha, alpha_scale=factor, k_bound=math.inf, k_init=0.4)
    batch, method = make_batch(w=w), make_method("ABRA", cfg, lr=lr)
    X, mu, sigma, (W, b, V) = literal_parts(method, batch)
    drawn = record_draws(method)
    method(batch)
    y, y_b, share = target_arrays(batch.target)
    K, noise = 0.4 * sigma, [array(e) for e in drawn[0][0]]
    Y = reference.dense(y, len(W), y_b, share)
    slopes = reference.ascent_gradient(X.mean((2, 3)), mu, sigma, *noise, K, K, W, b, V, Y, 0.8, 0.5, 30.0)
    for got, slope in zip(magnitudes(method)["res4"], slopes, strict=True):
        assert abs(step * slope).max() > 1e-3
        np.testing.assert_allclose(array(got), K + step * slope, atol=1e-12)


@MIXED
@pytest.mark.parametrize("reduce, share", [("mean", 0.5), ("sum", 1.0)])
def test_eq13_averages_clean_and_shifted_losses_and_adds_js(w, reduce, share):
    cfg, batch = ABRAConfig(lam=0.7, js_weight=3.0, reduce=reduce, **FREE), make_batch(w=w)
    method = make_method("ABRA", cfg)
    X, mu, sigma, heads = literal_parts(method, batch)
    drawn = record_draws(method)
    out = method(batch)
    clean, z = literal_task(X.mean((2, 3)), heads, batch, cfg)
    f_t = literal_shift(X, mu, sigma, drawn[1][0], magnitudes(method)["res4"])
    hard, z_t = literal_task(f_t, heads, batch, cfg)
    js = reference.js(z, z_t)
    assert out.loss.item() == pytest.approx(share * (clean + hard) + 3.0 * js, abs=1e-10)
    np.testing.assert_allclose(array(out.logits), z, atol=1e-12)
    for name, want in {"L_clean": clean, "L_shifted": hard, "R_JS": js}.items():
        assert out.logs[name].item() == pytest.approx(want, abs=1e-10)


def test_eq14_js_is_half_of_both_divergences_from_the_middle():
    rng = np.random.default_rng(0)
    z, z_t = rng.normal(size=(2, 4, 6)) * 3
    got = js_divergence(torch.from_numpy(z), torch.from_numpy(z_t)).item()
    assert got == pytest.approx(reference.js(z, z_t), abs=1e-13)
    assert reference.js(z, z_t) > 0.05


def test_eq14_js_is_symmetric_and_at_most_ln2():
    rng = np.random.default_rng(0)
    z, z_t = torch.from_numpy(rng.normal(size=(2, 4, 6)) * 3)
    assert js_divergence(z, z_t).item() == pytest.approx(js_divergence(z_t, z).item(), abs=1e-15)
    apart = torch.eye(2, dtype=torch.float64) * 1e4
    assert js_divergence(apart, apart.flip(1)).item() == pytest.approx(math.log(2), abs=1e-15)
    assert 0 <= js_divergence(z, z_t).item() <= math.log(2)


def test_algorithm1_updates_K_before_theta():
    cfg, batch = ABRAConfig(**FREE), make_batch()
    method = make_method("ABRA", cfg)
    method(batch)
    X, mu, sigma, heads = literal_parts(method, batch)
    theta = {name: p.detach().clone() for name, p in method.named_parameters()}
    before = magnitudes(method)["res4"]
    drawn = record_draws(method)
    out = method(batch)
    after = magnitudes(method)["res4"]
    assert all(torch.equal(p, theta[name]) for name, p in method.named_parameters())
    hard = {
        which: literal_task(literal_shift(X, mu, sigma, noise[0], K), heads, batch, cfg)[0]
        for which, noise, K in [
            ("phase 1", drawn[0], before),
            ("phase 2", drawn[1], after),
            ("stale", drawn[1], before),
        ]
    }
    assert out.logs["L_adv"].item() == pytest.approx(hard["phase 1"], abs=1e-10)
    assert out.logs["L_shifted"].item() == pytest.approx(hard["phase 2"], abs=1e-10)
    assert abs(hard["phase 2"] - hard["stale"]) > 1e-3
