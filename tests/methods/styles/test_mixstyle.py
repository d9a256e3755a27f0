"""MixStyle against loops in NumPy, and its invariants."""

import numpy as np
import pytest
import torch

from abra_wilds.methods.styles.mixstyle import MixStyle, MixStyleConfig, partners_elsewhere
from abra_wilds.nets.staged import TAP_POINTS
from tests.helpers import array, assert_is_erm, make_batch, make_method, tiny_net, worst
from tests.methods.styles import reference_styles as slow
from tests.methods.styles.test_dsu import a_map, record

G = (0, 1, 1, 0, 2, 2)


@pytest.mark.parametrize("w", [None, 0.63])
@pytest.mark.parametrize("mix", ["random", "crossdomain"])
@pytest.mark.parametrize("at", [("res1", "res2"), TAP_POINTS])
def test_loss_equals_the_slow_loop(at, mix, w):
    cfg = MixStyleConfig(at=at, p=1.0, alpha=0.8, mix=mix, eps=1e-3)
    method, batch = make_method("MixStyle", cfg), make_batch(G, w=w)
    drawn = record(method)
    out = method(batch)
    draws = {p: (array(lam)[:, 0], j.numpy()) for p, (lam, j) in zip(method.at, drawn, strict=True)}
    layers = {p: lambda X, d=draws[p]: slow.mixed(X, *d, 1e-3) for p in at}
    assert out.loss.item() == pytest.approx(slow.loss(method, batch, layers), abs=1e-10)
    assert abs(out.loss.item() - make_method("ERM")(batch).loss.item()) > 1e-4


def test_statistics_are_constants_for_the_gradient():
    method, batch, X = make_method("MixStyle"), make_batch((0,) * 4), a_map().requires_grad_()
    lam, partner = torch.tensor([[0.2], [0.9], [0.5], [0.0]]).double(), torch.tensor([2, 0, 1, 3])
    method.draw = lambda batch, mu: (lam, partner)
    g = torch.randn_like(X)
    (found,) = torch.autograd.grad(method.mixed(batch, X), X, g)
    _, sigma = slow.instance_stats(array(X), 1e-6)
    share = lam.numpy()
    scale = (share * sigma + (1 - share) * sigma[partner.numpy()]) / sigma
    np.testing.assert_allclose(array(found), array(g) * scale[..., None, None], atol=1e-12)


@pytest.mark.parametrize(
    "draw",
    [
        lambda batch, mu: (torch.ones(len(mu), 1, dtype=mu.dtype), torch.arange(len(mu)).flip(0)),
        lambda batch, mu: (torch.rand(len(mu), 1, dtype=mu.dtype), torch.arange(len(mu))),
    ],
    ids=["lam = 1", "each its own partner"],
)
def test_without_a_share_of_others_loss_and_gradients_are_those_of_erm(draw):
    method = make_method("MixStyle", MixStyleConfig(p=1.0))
    method.draw = draw
    assert_is_erm(method, make_batch(G, w=0.63))


@pytest.mark.parametrize("w", [None, 0.63])
def test_with_probability_zero_loss_and_gradients_are_those_of_erm(w):
    method = make_method("MixStyle", MixStyleConfig(p=0.0))
    assert_is_erm(method, make_batch(G, w=w))


def test_normalised_content_survives_and_statistics_lie_between_those_of_the_two():
    method, batch, X = make_method("MixStyle", MixStyleConfig(alpha=1.0, eps=1e-12)), make_batch(G), a_map(6)
    drawn = record(method)
    Z = method.mixed(batch, X)
    ((lam, partner),) = drawn
    (mu, sigma), (new_mu, new_sigma) = ((M.mean((2, 3)), M.std((2, 3))) for M in (X, Z))
    content = [
        (M - m[..., None, None]) / s[..., None, None] for M, m, s in ((X, mu, sigma), (Z, new_mu, new_sigma))
    ]
    assert worst(*content) < 1e-10
    assert worst(new_mu, lam * mu + (1 - lam) * mu[partner]) < 1e-10
    assert worst(new_sigma, lam * sigma + (1 - lam) * sigma[partner]) < 1e-10


@pytest.mark.parametrize("alpha", [0.1, 2.0])
def test_shares_follow_beta_and_are_drawn_for_each_image(alpha):
    torch.manual_seed(0)
    method, batch = make_method("MixStyle", MixStyleConfig(alpha=alpha)), make_batch((0,) * 4000, size=1)
    lam, partner = method.draw(batch, torch.zeros(4000, 2))
    assert lam.shape == (4000, 1)
    assert lam.mean().item() == pytest.approx(0.5, abs=0.03)
    assert lam.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    assert ((lam >= 0) & (lam <= 1)).all()
    assert partner.sort().values.tolist() == list(range(4000))


def test_a_tiny_alpha_gives_shares_and_no_nan():
    torch.manual_seed(0)
    method, batch = make_method("MixStyle", MixStyleConfig(alpha=1e-4)), make_batch((0,) * 1000, size=1)
    lam, _ = method.draw(batch, torch.zeros(1000, 2))
    assert ((lam >= 0) & (lam <= 1)).all()


def test_partners_elsewhere_are_every_image_of_other_bio_batches_alike():
    torch.manual_seed(0)
    g = torch.tensor([5, 5, 5, 5, 5, 2, 9])  # one bio-batch holds most of the batch
    draws = torch.stack([partners_elsewhere(g) for _ in range(3000)])
    assert (g[draws] != g).all()
    assert (draws[:, :5] == 5).double().mean().item() == pytest.approx(0.5, abs=0.03)
    shares = torch.bincount(draws[:, 5], minlength=7) / 3000
    assert worst(shares, torch.tensor([1, 1, 1, 1, 1, 0, 1]) / 6) < 0.03


def test_crossdomain_mixes_at_random_where_the_batch_is_one_bio_batch():
    torch.manual_seed(0)
    method = make_method("MixStyle", MixStyleConfig(mix="crossdomain"))
    _, partner = method.draw(make_batch((3,) * 6), torch.zeros(6, 2))
    assert partner.sort().values.tolist() == list(range(6))
    g = torch.tensor(G)
    for _ in range(20):
        _, partner = method.draw(make_batch(G), torch.zeros(6, 2))
        assert (g[partner] != g).all()


def test_points_act_in_the_networks_order_however_they_are_listed():
    net, info = tiny_net(), make_method("ERM").info
    assert MixStyle(net, info, MixStyleConfig(at=("res2", "conv1", "res1"))).at == ("conv1", "res1", "res2")
