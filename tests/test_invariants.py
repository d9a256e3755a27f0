"""Invariants T1-T8 of ABRA: what its parts owe each other whatever the numbers."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from abra_wilds.functional.stats import channel_stats, restyle
from abra_wilds.methods.abra.abra import ABRA, refuse_batch_norm
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.nets.backbones import build_net
from abra_wilds.nets.staged import STAGES
from abra_wilds.types import InputError, StepContext
from tests import reference
from tests.helpers import (
    CHANNELS,
    array,
    assert_same_step,
    clean_map,
    gradients,
    magnitudes,
    make_batch,
    make_info,
    make_method,
    set_magnitudes,
    target_arrays,
    worst,
)

MIXED = pytest.mark.parametrize("w", [None, 0.63], ids=["hard", "cutmix"])
FREE = {"alpha": 0.3, "k_bound": math.inf, "k_init": 0.4}


def slopes_of_K(method, batch, noise):
    """dL_adv/dK_mu and dL_adv/dK_sigma at the first insertion point, by autograd."""
    points = method.perturb.clean(method.net, batch)
    K = [shift.leaves() for shift in method.perturb.shifts]
    f_t = method.perturb.shifted(
        method.net, points[0].detach(), noise or method.perturb.draw(points, batch), batch, K
    )
    losses, _ = method.task_losses(f_t, batch.target)
    return torch.autograd.grad(losses.mean(), K[0])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_T1_pooled_and_map_path_give_the_same_logits(dtype, tolerance):
    logits = []
    for pooled in (True, False):
        method = make_method("ABRA", ABRAConfig(pooled_path=pooled), dtype=dtype)
        batch = make_batch(dtype=dtype)
        points = method.perturb.clean(method.net, batch)
        assert points[0].x.dim() == (2 if pooled else 4)
        torch.manual_seed(5)
        f_t = method.perturb.shifted(method.net, points[0], method.perturb.draw(points, batch), batch)
        logits.append(method.classify(f_t))
    assert worst(*logits) < tolerance
    assert worst(logits[0], method.predict(batch.x)) > 1e-3


@MIXED
def test_T2_autograd_by_K_equals_the_closed_form(w):
    method, batch = make_method("ABRA"), make_batch(w=w)
    method(batch)
    set_magnitudes(method, torch.linspace(-1, 2, CHANNELS["res4"]))
    noise = method.perturb.draw(method.perturb.clean(method.net, batch), batch)
    X = clean_map(method, batch)
    y, y_b, share = target_arrays(batch.target)
    Y = reference.dense(y, 5, y_b, share)
    heads = (method.head.weight, method.head.bias, method.arc_weight)
    W, b, V, *pairs = (array(t) for t in (*heads, *noise[0], *magnitudes(method)["res4"]))
    mu, sigma = reference.channel_stats(X, 1e-6)
    want = reference.ascent_gradient(X.mean((2, 3)), mu, sigma, *pairs, W, b, V, Y, 0.8, 0.5, 30.0)
    for got, slope in zip(slopes_of_K(method, batch, noise), want, strict=True):
        assert abs(slope).max() > 1e-3
        np.testing.assert_allclose(array(got), slope, atol=1e-10)


@MIXED
@pytest.mark.parametrize("at", [("res4",), ("res3",), ("res1", "res4")])
def test_T3_without_K_the_shifted_features_are_the_clean_ones_and_the_loss_is_erm_plus_arc(w, at):
    batch, method = make_batch(w=w), make_method("ABRA", ABRAConfig(at=at, k_init=0.0, alpha=0.0))
    X = torch.randn(3, 4, 2, 2)
    nothing = torch.zeros(4)
    assert torch.equal(restyle(X, *channel_stats(X), nothing, nothing), X)
    out = method(batch)
    f, (y, y_b, share) = clean_map(method, batch).mean((2, 3)), target_arrays(batch.target)
    W, b, V = (array(t) for t in (method.head.weight, method.head.bias, method.arc_weight))
    Y = reference.dense(y, 5, y_b, share)
    want = 0.8 * reference.cross_entropy(f @ W.T + b, Y) + 0.2 * reference.arcface(f, V, Y, 0.5, 30.0)
    assert abs(out.logs["R_JS"].item()) < 1e-15
    assert out.loss.item() == pytest.approx(want, abs=1e-12)


@MIXED
@pytest.mark.parametrize("terms", [("ce", "arc", "js"), ("ce",)])
def test_T3_without_K_and_arc_loss_and_gradients_are_those_of_erm(w, terms):
    batch, erm = make_batch(w=w), make_method("ERM")
    method = make_method("ABRA", ABRAConfig(lam=1.0, terms=terms, k_init=0.0, alpha=0.0))
    assert method.arc_weight is None
    method.load_state_dict(erm.state_dict(), strict=False)
    a, b = assert_same_step(method, erm, batch)
    assert worst(a.logits, b.logits) < 1e-12


@pytest.mark.parametrize("at", [("res4",), ("res2", "res4")])
def test_T4_a_small_ascent_does_not_lower_L_adv_and_leaves_theta_alone(at):
    method, batch = make_method("ABRA", ABRAConfig(at=at, alpha=1e-3)), make_batch()
    theta = copy.deepcopy(dict(method.named_parameters()))
    buffers = copy.deepcopy(dict(method.net.named_buffers()))
    points = method.perturb.clean(method.net, batch)
    between = copy.deepcopy(dict(method.net.named_buffers()))
    before = magnitudes(method)
    logs = method.explore(points[0], method.perturb.draw(points, batch), batch)
    assert logs["L_adv_after"] > logs["L_adv"]
    assert not torch.equal(before["res4"][0], magnitudes(method)["res4"][0])
    assert all(not torch.equal(before[p][1], magnitudes(method)[p][1]) for p in at)
    for name, parameter in method.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, theta[name])
    assert worst(dict(method.net.named_buffers()), between) == 0.0
    assert worst(buffers, between) > 0.0


def test_T5_K_is_saved_but_no_optimiser_moves_it_and_a_resumed_step_is_bitwise_the_same():
    method, batch = make_method("ABRA", ABRAConfig(alpha=0.1)), make_batch(w=0.4)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.1, weight_decay=0.5)
    method(batch).loss.backward()
    before = magnitudes(method)["res4"]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, magnitudes(method)["res4"], strict=True))
    assert {"perturb.res4.K_mu", "perturb.res4.K_sigma"} <= set(method.state_dict())
    resumed = make_method("ABRA", ABRAConfig(alpha=0.1), seed=7)
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    outs = []
    for m in (method, resumed):
        torch.manual_seed(3)
        outs.append(m(batch))
    assert torch.equal(outs[0].loss, outs[1].loss)
    states = method.state_dict(), resumed.state_dict()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@MIXED
def test_T6_shared_and_literal_forward_differ_in_batch_norm_buffers_only(w):
    batch, results = make_batch(w=w), []
    start = {n: b.clone() for n, b in make_method("ABRA").net.named_buffers()}
    for literal in (False, True):
        method = make_method("ABRA", ABRAConfig(two_forward=literal, **FREE))
        torch.manual_seed(3)
        out = method(batch)
        found = gradients(method, out.loss), magnitudes(method)["res4"], dict(method.net.named_buffers())
        results.append((out, *found))
    (a, grads_a, K_a, shared), (b, grads_b, K_b, literal) = results
    assert worst(a.loss, b.loss) < 1e-13
    assert worst(K_a[0], K_b[0]) < 1e-13
    assert worst(K_a[1], K_b[1]) < 1e-13
    assert worst(grads_a, grads_b) < 1e-12
    assert worst(dict(a.logs), dict(b.logs)) < 1e-12
    for name in start:
        if name.endswith("num_batches_tracked"):
            assert (shared[name].item(), literal[name].item()) == (1, 2)
        else:
            b_hat = (shared[name] - 0.9 * start[name]) / 0.1
            assert worst(literal[name], 0.81 * start[name] + 0.19 * b_hat) < 1e-12


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_T7_a_batch_norm_before_the_heads_is_refused(norm):
    with pytest.raises(ValueError, match="cancels"):
        refuse_batch_norm(nn.Sequential(nn.Linear(4, 4), norm(4)))
    refuse_batch_norm(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)))
    with pytest.raises(InputError, match="--abra_neck"):
        ABRAConfig(neck="batchnorm")


@pytest.mark.parametrize("at, cancelled", [("res1", True), ("res2", True), ("res3", True), ("res4", False)])
def test_T8_before_a_convolution_with_batch_norm_the_shift_of_the_mean_has_no_effect(at, cancelled):
    method, batch = make_method("ABRA", ABRAConfig(at=(at,))), make_batch()
    g_mu, g_sigma = slopes_of_K(method, batch, None)
    assert g_sigma.abs().max() > 1e-6
    assert g_mu.abs().max() < 1e-10 if cancelled else g_mu.abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("at", STAGES[1:])
def test_T8_holds_for_torchvisions_resnet50(at):
    torch.manual_seed(0)
    net = build_net("resnet50", 3, pretrained=False)
    method = ABRA(net, make_info(), ABRAConfig(at=(at,))).double().train()
    method.context = StepContext(0.1)
    g_mu, g_sigma = slopes_of_K(method, make_batch((0,) * 4, size=64), None)
    assert g_sigma.abs().max() > 1e-8
    assert g_mu.abs().max() > 1e-6 if at == "res4" else g_mu.abs().max() < 1e-10
