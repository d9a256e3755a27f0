"""ABRA step by step against a slow reference in NumPy, and the paths that must agree."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from abra_wilds.methods import METHODS
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.nets.staged import STAGES
from abra_wilds.types import StepContext
from tests.helpers import (
    array,
    as_model,
    gradients,
    groups_of,
    magnitudes,
    make_batch,
    make_method,
    noise_arrays,
    record_draws,
    target_arrays,
    worst,
)
from tests.methods.abra import reference_abra as slow
from tests.methods.settings import ALTERNATIVES, BASE, THREE


def slow_step(method, batch, drawn, K, ema):
    """The reference's K, ema, L_adv and loss as functions of theta's copy, for the draws of the real step."""
    cfg, model, N = method.cfg, as_model(method), len(batch)
    x, target, groups = array(batch.x), target_arrays(batch.target), [rows.numpy() for rows in batch.groups]
    noise = [noise_arrays(method, draw, N) for draw in drawn]
    _, met = slow.run(model, x, cfg, groups)
    sigma = slow.mean_sigma(cfg, met, groups, N)
    ema = {p: sigma[p] if ema is None else 0.9 * ema[p] + 0.1 * sigma[p] for p in sigma}
    K = {p: slow.start_K(cfg, sigma[p]) for p in sigma} if K is None else K
    alpha = method.context.lr if cfg.alpha is None else cfg.alpha
    K, adv = slow.ascend(model, x, target, cfg, groups, noise[0], K, ema, alpha)
    constants = p_constant = None
    _, units = slow.run(model, x, cfg, groups, slow.scaled(noise[-1], K))
    if cfg.detach_stats:
        constants = units
    if cfg.js_detach_clean:
        _, p_constant = slow.task(model, slow.run(model, x, cfg, groups)[0], target, cfg)

    def loss():
        fixed = constants, p_constant, units
        return slow.robust_loss(as_model(method), x, target, cfg, groups, noise[-1], K, *fixed)

    return K, ema, adv, loss


def slope_along(method, direction, loss, h=1e-6):
    """Central difference of a loss along a direction in theta, {name: tensor}."""
    values = []
    for step in (h, -2 * h):
        with torch.no_grad():
            for name, parameter in method.named_parameters():
                parameter += step * direction[name]
        values.append(loss())
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            parameter += h * direction[name]
    return (values[0] - values[1]) / (2 * h)


def check_against_slow_step(cfg, batch, steps=2):
    """Steps of the method equal those of the reference: K, L_adv, loss, and its slope along directions."""
    method = make_method("ABRA", cfg, lr=0.04)
    K = ema = None
    torch.manual_seed(11)
    for step in range(steps):
        batch = dataclasses.replace(
            batch, x=batch.x + step * torch.sin(7 * batch.x)
        )  # other images each step
        drawn = record_draws(method)
        out = method(batch)
        del method.perturb.draw
        K, ema, adv, loss = slow_step(method, batch, drawn, K, ema)
        for name in method.perturb.at:
            np.testing.assert_allclose(
                np.stack([array(k) for k in magnitudes(method)[name]]), K[name], atol=2e-8
            )
            np.testing.assert_allclose(array(method.perturb[name].sigma_ema), ema[name], atol=1e-12)
            assert method.perturb[name].seen.item() == step + 1
        assert out.logs["L_adv"].item() == pytest.approx(adv, abs=1e-6)
        assert out.loss.item() == pytest.approx(loss(), abs=1e-6)
    found = gradients(method, out.loss)
    for only in ("net.stages.stem", "net.stages.res3", "net.stages.res4", "head", "arc_weight", "neck"):
        direction = {n: torch.randn_like(p) * n.startswith(only) for n, p in method.named_parameters()}
        slope = sum((found[n] * d).sum().item() for n, d in direction.items() if found[n] is not None)
        assert slope == pytest.approx(slope_along(method, direction, loss), abs=2e-6, rel=2e-6)


CASES = {field: {field: value} for field, value in ALTERNATIVES.items() if field != "prob"}
CASES |= {
    "as published": {"alpha": None, "k_bound": math.inf},
    "arc alone": {"terms": ("arc",)},
    "ce and arc": {"terms": ("ce", "arc")},
    "ce alone": {"terms": ("ce",)},
    "arc and js, halved": {"terms": ("arc", "js"), "halve_arc": True},
    "arc and ce of no weight": {"lam": 0.0},
    "arc by the shared weight": {"terms": ("arc", "js"), "share_arc_weight": True},
    "res3+res4 in units of sigma": {"at": ("res3", "res4"), "k_unit": "sigma", "k_bound": 0.3},
    "res3+res4": {"at": ("res4", "res3")},
    "res3+res4 on maps, summed": {"at": ("res3", "res4"), "pooled_path": False, "reduce": "sum"},
    "res1+res3": {"at": ("res1", "res3")},
    "res1+res2+res4, image noise": {"at": ("res1", "res2", "res4"), "noise_shape": "image"},
    "res3+res4, detached": {"at": ("res3", "res4"), "detach_stats": True, "js_detach_clean": True},
    "res3+res4, literal": {"at": ("res3", "res4"), "two_forward": True},
    "clamped, unbounded": {"clamp_sigma": True, "k_init": 2.0, "k_bound": math.inf},
    "shared arc weight, two terms": {"share_arc_weight": True, "soft_arc": "two_term"},
    "image noise over the batch": {"noise_shape": "image", "stats_over": "batch"},
}


@pytest.mark.parametrize("g", [(0,) * 6, THREE], ids=["one bio-batch", "three"])
@pytest.mark.parametrize("case", CASES)
def test_two_steps_equal_the_slow_reference(case, g):
    check_against_slow_step(ABRAConfig(**{**BASE, **CASES[case]}), make_batch(g, w=0.63))


@pytest.mark.parametrize(
    "w", [None, torch.tensor([0.1, 0.9, 0.5, 1.0, 0.0, 0.3], dtype=torch.float64)], ids=["hard", "each"]
)
@pytest.mark.parametrize("soft_arc", ["dense", "two_term"])
def test_hard_labels_and_a_weight_for_each_image_equal_the_slow_reference(w, soft_arc):
    check_against_slow_step(ABRAConfig(**BASE, soft_arc=soft_arc), make_batch(w=w))


@pytest.mark.parametrize("at", [("res4",), ("res2", "res4"), ("res2",)])
def test_counters_of_batch_norms_rise_once_a_step_shared_and_once_a_forward_literally(at):
    for literal, counts in ((False, 1), (True, 2)):
        method = make_method("ABRA", ABRAConfig(at=at, two_forward=literal))
        method(make_batch())
        assert {s: m[1].num_batches_tracked.item() for s, m in method.net.stages.items()} == dict.fromkeys(
            STAGES, counts
        )


@pytest.mark.parametrize("at", [("res4",), ("res2", "res4"), ("res2",)])
def test_shared_forward_leaves_the_running_statistics_that_clean_images_alone_give(at):
    method, erm, batch = (
        make_method("ABRA", ABRAConfig(at=at, ascent_steps=2)),
        make_method("ERM"),
        make_batch(),
    )
    method(batch)
    erm(batch)
    assert worst(dict(method.net.named_buffers()), dict(erm.net.named_buffers())) < 1e-14


@pytest.mark.parametrize("literal", [False, True])
def test_phase_1_works_on_constants_and_phase_2_on_what_depends_on_theta(literal):
    method, phases = make_method("ABRA", ABRAConfig(two_forward=literal)), []
    original = method.perturb.shifted

    def shifted(net, start, *args, **kwargs):
        phases.append((start.x.requires_grad, start.sigma.requires_grad))
        return original(net, start, *args, **kwargs)

    method.perturb.shifted = shifted
    method(make_batch())
    assert phases == [
        (False, False),
        (False, False),
        (True, True),
    ]  # ascent, its diagnosis, and the robust loss


def test_statistics_and_noise_of_several_bio_batches_equal_running_each_alone():
    batch, method = make_batch(THREE), make_method("ABRA")
    method.net.eval()  # batch norm would tie the bio-batches together
    points = method.perturb.clean(method.net, batch)
    (noise,) = method.perturb.draw(points, batch)
    f_t = method.perturb.shifted(method.net, points[0], [noise], batch)
    for k, rows in enumerate(batch.groups):
        alone = dataclasses.replace(make_batch((k, k)), x=batch.x[rows], groups=groups_of((k, k)))
        single = method.perturb.clean(method.net, alone)
        assert worst(points[0].mu[rows], single[0].mu.expand(2, -1)) < 1e-13
        assert worst(points[0].sigma[rows], single[0].sigma.expand(2, -1)) < 1e-13
        assert all(torch.equal(e[rows[0]], e[rows[1]]) for e in noise)
        assert (
            worst(
                f_t[rows],
                method.perturb.shifted(method.net, single[0], [tuple(e[rows[0]] for e in noise)], alone),
            )
            < 1e-13
        )
    for e in noise:
        assert len({tuple(row) for row in e.tolist()}) == 3


def test_probability_skips_whole_steps_and_leaves_K_unborn():
    method, batch = make_method("ABRA", ABRAConfig(prob=0.25)), make_batch()
    torch.manual_seed(0)
    perturbed = sum("L_adv" in method(batch).logs for _ in range(400))
    assert abs(perturbed - 100) < 4 * math.sqrt(400 * 0.25 * 0.75)
    assert method.perturb["res4"].seen.item() == perturbed


@pytest.mark.parametrize("context", [StepContext(), StepContext(0.03)])
def test_alpha_left_unset_is_the_learning_rate_of_the_context(context):
    method, given = make_method("ABRA"), make_method("ABRA", ABRAConfig(alpha=context.lr))
    method.context = context
    for each in (method, given):
        torch.manual_seed(0)
        each(make_batch())
    assert worst(dict(method.named_buffers()), dict(given.named_buffers())) == 0


def test_diagnostics_are_left_out_when_nobody_reads_them():
    assert "L_adv_after" in make_method("ABRA")(make_batch()).logs
    assert "L_adv_after" not in make_method("ABRA", log=False)(make_batch()).logs


def test_summary_counts_the_channels_whose_deviation_changes_sign():
    method = make_method("ABRA", ABRAConfig(alpha=0.0, k_init=1.0, k_bound=2.0))
    up, down = torch.full((6,), 3.0, dtype=torch.float64), torch.tensor([-1.1, -0.9, -5, 1, 0, 1.1]).double()
    record_draws(method, [[(-up, up)], [(-up, down)]])
    logs = method(make_batch()).logs
    assert logs["flipped"].item() == pytest.approx(2 / 6)
    assert logs["K_rel_mean"].item() == pytest.approx(1.0)
    assert logs["K_at_bound"].item() == 0.0


def test_logs_name_the_insertion_point_where_there_are_several():
    logs = make_method("ABRA", ABRAConfig(at=("res4", "res3")))(make_batch()).logs
    assert {"K_rel_mean_res3", "K_rel_mean_res4", "flipped_res3", "K_at_bound_res4"} <= set(logs)
    assert not any(v.requires_grad for v in logs.values())


def test_the_batches_abra_asks_for_are_mixed_plates():
    plan = METHODS["ABRA"].plan
    assert (plan.train_loader, plan.groupby_fields, plan.mix) == ("plate", ("experiment", "plate"), "cutmix")
    assert plan.min_group_rows == 2


@pytest.mark.parametrize("at", ["res2", "res4"])
def test_before_relu_shifts_what_the_relu_of_the_stage_will_see(at):
    cfg = ABRAConfig(
        at=(at,), before_relu=True, alpha=0.0, reuse_noise=True, terms=("ce",), k_init=0.3, eps=1e-6
    )
    method, batch = make_method("ABRA", cfg), make_batch()
    stages = method.net.stages
    torch.manual_seed(3)
    n_mu, n_sigma = (torch.randn(method.net.channels[at], dtype=torch.float64) for _ in range(2))
    X = batch.x
    for name in STAGES[: STAGES.index(at)]:
        X = stages[name](X)
    X = stages[at][1](stages[at][0](X))  # convolution and batch norm, without the ReLU
    mu = X.mean((0, 2, 3), keepdim=True)
    sigma = ((X - mu).square().mean((0, 2, 3), keepdim=True) + 1e-6).sqrt()
    K = 0.3 * sigma
    n_mu, n_sigma = n_mu.reshape(1, -1, 1, 1), n_sigma.reshape(1, -1, 1, 1)
    X = ((sigma + n_sigma * K) * (X - mu) / sigma + mu + n_mu * K).clamp_min(0)
    for name in STAGES[STAGES.index(at) + 1 :]:
        X = stages[name](X)
    expected = torch.nn.functional.cross_entropy(method.head(X.mean((2, 3))), batch.target.y)
    torch.manual_seed(3)
    assert method(batch).logs["L_shifted"].item() == pytest.approx(expected.item(), abs=1e-12)
