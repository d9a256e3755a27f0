"""DSU against loops in NumPy, its invariants, and what it shares with MixStyle and AdvStyle."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from abra_wilds.functional.stats import (
    batch_spread,
    instance_moments,
    instance_stats,
    restyle,
    restyle_images,
)
from abra_wilds.methods.styles.dsu import DSU, DSUConfig
from abra_wilds.methods.styles.taps import tap
from abra_wilds.nets.staged import STAGES, TAP_POINTS, StagedNet
from abra_wilds.types import InputError
from tests.helpers import CHANNELS, array, assert_is_erm, make_batch, make_info, make_method, tiny_net, worst
from tests.methods.styles import reference_styles as slow

G = (0, 1, 1, 0, 2, 2)


def record(method):
    """Let a method keep the noise it draws, in the returned list."""
    drawn, original = [], method.draw

    def draw(*args):
        drawn.append(original(*args))
        return drawn[-1]

    method.draw = draw
    return drawn


def a_map(N=4, C=3, h=5, w=4, seed=0):
    torch.manual_seed(seed)
    scale = torch.arange(1.0, C + 1)[:, None, None] * torch.arange(1.0, N + 1)[:, None, None, None]
    return (torch.randn(N, C, h, w) * scale + scale).double()


@pytest.mark.parametrize("w", [None, 0.63])
@pytest.mark.parametrize("at", [TAP_POINTS, ("res4", "conv1")])
def test_loss_equals_the_slow_loop(at, w):
    method, batch = make_method("DSU", DSUConfig(at=at, p=1.0, factor=0.7, eps=1e-3)), make_batch(G, w=w)
    drawn = record(method)
    out = method(batch)
    assert len(drawn) == len(at)
    noise = {point: tuple(map(array, pair)) for point, pair in zip(method.at, drawn, strict=True)}
    layers = {point: lambda X, e=noise[point]: slow.noisy(X, e, 1e-3, 0.7) for point in at}
    assert out.loss.item() == pytest.approx(slow.loss(method, batch, layers), abs=1e-10)
    assert abs(out.loss.item() - make_method("ERM")(batch).loss.item()) > 1e-3


def test_gradients_pass_through_every_statistic():
    method, X = make_method("DSU"), a_map(3, 2, 2, 3)
    noise = torch.randn(3, 2).double(), torch.randn(3, 2).double()
    method.draw = lambda mu: noise
    assert torch.autograd.gradcheck(method.resample, X.requires_grad_())


@pytest.mark.parametrize("off", [{"p": 0.0}, {"p": 1.0, "factor": 0.0}])
@pytest.mark.parametrize("w", [None, 0.63])
def test_at_zero_strength_loss_and_gradients_are_those_of_erm(off, w):
    method = make_method("DSU", DSUConfig(**off))
    assert_is_erm(method, make_batch(G, w=w))


def test_opposite_noise_averages_to_the_map_itself():
    method, X = make_method("DSU"), a_map()
    e = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    outs = []
    for sign in (1, -1):
        method.draw = lambda mu, sign=sign: (sign * e[0], sign * e[1])
        outs.append(method.resample(X))
    assert worst(sum(outs) / 2, X) < 1e-12
    assert worst(outs[0], X) > 0.1


def test_noise_is_standard_normal_of_its_own_for_each_image_channel_and_statistic():
    torch.manual_seed(0)
    pair = make_method("DSU").draw(torch.zeros(400, 300))
    for e in pair:
        assert abs(e.mean()) < 0.02
        assert e.std().item() == pytest.approx(1, abs=0.02)
        assert e.unique().numel() > 0.99 * e.numel()
    assert abs((pair[0] * pair[1]).mean()) < 0.02


def test_normalised_content_of_each_map_survives():
    method, X = make_method("DSU"), a_map()
    method.draw = lambda mu: (torch.ones_like(mu), torch.ones_like(mu))
    before, after = (
        (M - M.mean((2, 3), keepdim=True)) / M.std((2, 3), keepdim=True) for M in (X, method.resample(X))
    )
    assert worst(before, after) < 1e-12


def test_identical_images_have_a_spread_of_root_eps():
    mu, sigma = instance_stats(a_map(1).expand(5, -1, -1, -1), correction=1)
    for s in (mu, sigma):
        assert worst(batch_spread(s, eps=4e-4), torch.full_like(s[0], 2e-2)) < 1e-12
        assert worst(batch_spread(s[:1], eps=4e-4), torch.full_like(s[0], 2e-2)) < 1e-12


def test_spread_and_statistics_equal_the_slow_ones():
    X = a_map()
    for got, want in zip(
        instance_stats(X, 1e-3, correction=1), slow.instance_stats(array(X), 1e-3), strict=True
    ):
        np.testing.assert_allclose(array(got), want, atol=1e-12)
        np.testing.assert_allclose(array(batch_spread(got, 1e-3)), slow.spread(want, 1e-3), atol=1e-12)


@pytest.mark.parametrize("correction", [0, 1])
def test_a_map_of_one_position_has_no_variance_and_no_nan(correction):
    X = torch.randn(3, 2, 1, 1, requires_grad=True)
    mean, var = instance_moments(X, correction)
    assert torch.equal(mean, X[..., 0, 0])
    assert not var.any()
    _, sigma = instance_stats(X, correction=correction)
    sigma.sum().backward()
    assert X.grad.isfinite().all()


def test_one_scale_and_one_offset_make_the_shift_of_eq7():
    X = a_map()
    mu, sigma = instance_stats(X)
    d_mu, d_sigma = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    assert worst(restyle_images(X, mu, sigma, d_mu, d_sigma), restyle(X, mu, sigma, d_mu, d_sigma)) < 1e-12
    assert torch.equal(restyle_images(X, mu, sigma, 0 * d_mu, 0 * d_sigma), X)


def test_each_point_acts_with_its_probability_and_apart_from_the_others():
    torch.manual_seed(0)
    method = make_method("DSU", DSUConfig(p=0.3))
    acts = np.array([[p in active for p in TAP_POINTS] for active in (method.active() for _ in range(2000))])
    assert np.abs(acts.mean(0) - 0.3).max() < 4 * math.sqrt(0.21 / 2000)
    assert np.abs(np.corrcoef(acts.T) - np.eye(6)).max() < 0.1


def test_a_point_that_does_not_act_computes_nothing():
    method = make_method("DSU")
    method.active = lambda: ["res2"]
    drawn = record(method)
    method(make_batch(G))
    assert [e.shape[1] for e, _ in drawn] == [CHANNELS["res2"]]


def test_taps_work_in_float32_and_hand_back_what_they_were_given():
    X, seen = torch.randn(2, 3, 4, 4), []

    def look(x):
        seen.append((x.dtype, torch.is_autocast_enabled("cpu")))
        return x

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tap(look)(X.bfloat16()).dtype == torch.bfloat16
    assert tap(look)(X.double()).dtype == torch.float64
    assert seen == [(torch.float32, False), (torch.float64, False)]


def test_a_tap_at_conv1_sees_the_first_convolution_before_its_batch_norm():
    net, x, seen = tiny_net().eval(), make_batch().x.float(), []

    def double(X):
        seen.append(X)
        return 2 * X

    out = net(x, taps={"conv1": double, "stem": lambda X: X + 1})
    convolution, *rest = net.stages["stem"]
    assert torch.equal(seen[0], convolution(x))
    assert torch.equal(out, net(nn.Sequential(*rest)(2 * seen[0]) + 1, after="stem"))
    bare = net(x, taps={"conv1": double}, upto="stem", bare=True)
    assert torch.equal(bare.relu(), net(x, taps={"conv1": double}, upto="stem"))
    assert [net.channels_at(p) for p in TAP_POINTS] == [3, *CHANNELS.values()]


@pytest.mark.parametrize("stem", [nn.Identity(), nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1))])
def test_a_stem_without_a_first_convolution_is_refused_before_training(stem):
    stages = dict.fromkeys(STAGES, nn.Identity()) | {"stem": stem}
    net = StagedNet(stages, dict.fromkeys(STAGES, 3))
    with pytest.raises(InputError, match="conv1"):
        DSU(net, make_info(), DSUConfig())
    DSU(net, make_info(), DSUConfig(at=("stem", "res1")))
