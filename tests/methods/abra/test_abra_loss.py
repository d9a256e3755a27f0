"""BatchShift and abra_loss, for loops of one's own, against method ABRA and against Eq. 7."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from abra_wilds import BatchShift, PlateBatchSampler, abra_loss, dist
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.types import InputError
from tests import reference
from tests.helpers import array, make_batch, make_method, worst
from tests.methods.settings import THREE
from tests.ranks import together

LR = 0.04
EACH = torch.tensor([0.1, 0.9, 0.5, 1.0, 0.0, 0.3], dtype=torch.float64)
ONE = (0,) * 6


class Pooled(nn.Module):
    """What follows res3 in the method: the last stage and average pooling."""

    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def forward(self, x):
        return self.stage(x).mean((2, 3))


def own_step(parts, batch, at="res4", **settings):
    """One step as a loop of one's own writes it, on the parts of a method's copy."""
    X = parts.net(batch.x, upto=at)
    return abra_loss(
        X,
        batch.target,
        parts.head,
        parts.arc_weight,
        parts.perturb[at],
        alpha=LR,
        bio_batch=batch.g,
        tail=None if at == "res4" else Pooled(parts.net.stages["res4"]),
        **settings,
    )


def assert_same_steps(batch, at="res4", steps=3, **settings):
    """Loss, logits, gradients of all parameters and buffers, K among them, after each of a few steps."""
    method = make_method("ABRA", ABRAConfig(at=(at,), **settings), lr=LR)
    parts = copy.deepcopy(method)
    optimisers = [torch.optim.Adam(m.parameters(), LR) for m in (method, parts)]
    for step in range(steps):
        x = batch.x + step * torch.sin(7 * batch.x)  # other images each step
        found = []
        for m, call in ((method, method), (parts, lambda b: own_step(parts, b, at, **settings))):
            torch.manual_seed(step)
            out = call(dataclasses.replace(batch, x=x))
            m.zero_grad(set_to_none=True)
            out.loss.backward()
            found.append(out)
        assert worst(found[0].loss, found[1].loss) < 1e-14
        assert worst(found[0].logits, found[1].logits) < 1e-14
        gradients = [{n: p.grad for n, p in m.named_parameters()} for m in (method, parts)]
        assert all(g is not None for g in gradients[0].values())
        assert worst(*gradients) < 1e-14
        for optimiser in optimisers:
            optimiser.step()
        assert worst(dict(method.named_buffers()), dict(parts.named_buffers())) < 1e-14
        for name in ("L_adv", "L_clean", "L_shifted", "R_JS", "K_rel_mean"):
            assert worst(found[0].logs[name], found[1].logs[name]) < 1e-14
    first = BatchShift(len(method.perturb[at].K_mu))
    assert worst(first.K_mu, method.perturb[at].K_mu) > 0.01


@pytest.mark.parametrize("g", [ONE, THREE], ids=["one bio-batch", "three"])
@pytest.mark.parametrize("w", [None, 0.63, EACH], ids=["hard", "cutmix", "cutmix, a weight for each"])
def test_parts_and_method_make_the_same_steps_by_default(g, w):
    assert_same_steps(make_batch(g, w=w))


@pytest.mark.parametrize("g", [ONE, THREE], ids=["one bio-batch", "three"])
def test_parts_and_method_make_the_same_steps_with_other_values(g):
    assert_same_steps(make_batch(g, w=0.3), lam=0.4, margin=0.2, scale=8.0, js_weight=3.0)


def test_parts_and_method_make_the_same_steps_at_a_shallow_point_whose_tail_has_a_batch_norm():
    assert_same_steps(make_batch(THREE, w=0.63), at="res3")


def test_without_arc_weight_it_is_the_method_by_cross_entropy_and_js():
    method, batch = make_method("ABRA", ABRAConfig(terms=("ce", "js")), lr=LR), make_batch()
    parts = copy.deepcopy(method)
    torch.manual_seed(0)
    expected = method(batch)
    torch.manual_seed(0)
    f = parts.net(batch.x)
    found = abra_loss(f, batch.target.y, parts.head, None, parts.perturb["res4"], alpha=LR)
    assert worst(expected.loss, found.loss) < 1e-14


def test_in_evaluation_it_is_the_clean_loss_and_nothing_moves():
    parts, batch = make_method("ABRA", lr=LR), make_batch(THREE)
    own_step(parts, batch)
    parts.eval()
    before = copy.deepcopy(parts.state_dict())
    out = own_step(parts, batch)
    f = parts.net(batch.x).mean((2, 3))
    assert worst(out.loss, parts.task_losses(f, batch.target)[0].mean()) < 1e-14
    assert worst(out.logits, parts.head(f)) == 0 and set(out.logs) == {"L_clean"}
    assert worst(before, parts.state_dict()) == 0


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 2), (6, 3, 5)])
@pytest.mark.parametrize("g", [None, (7, -2, 7, 7, -2, 90001)], ids=["one bio-batch", "any integers"])
def test_the_layer_is_eq7_for_each_bio_batch_in_training_and_nothing_in_evaluation(shape, g):
    shift = BatchShift(3).double()
    x = 2 * torch.randn(shape, dtype=torch.float64) + 1
    assert shift.eval()(x, g) is x and shift.seen.item() == 0
    shift.train()
    torch.manual_seed(5)
    found = shift(x, g)
    torch.manual_seed(5)
    ids = list(dict.fromkeys(g or ONE))
    draws = [torch.randn((len(ids), 3), dtype=torch.float64).numpy() for _ in "ms"]
    K = array(shift.K_mu)
    assert (K > 0).all() and shift.seen.item() == 1
    for k, group in enumerate(ids):
        rows = np.flatnonzero(np.array(g or ONE) == group)
        X = array(x)[rows].reshape(len(rows), 3, -1, 1)
        mu, sigma = reference.channel_stats(X, 1e-6)
        want = reference.restyle(X, mu, sigma, draws[0][k] * K, draws[1][k] * K)
        np.testing.assert_allclose(array(found)[rows].reshape(X.shape), want, atol=1e-12)


def test_the_layers_K_start_at_a_tenth_of_the_mean_sigma_and_are_no_parameters():
    shift = BatchShift(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), shift, nn.Flatten())
    net(torch.randn(5, 3, 2, 2))
    assert torch.equal(shift.K_mu, 0.1 * shift.sigma_ema) and torch.equal(shift.K_sigma, shift.K_mu)
    assert len(list(net.parameters())) == 2
    assert {"1.K_mu", "1.K_sigma"} <= set(net.state_dict())


def test_its_defaults_are_those_of_the_method():
    cfg, shift = ABRAConfig(), BatchShift(2)
    assert (shift.start, shift.relative, shift.bound) == (cfg.k_init, cfg.k_init_relative, cfg.k_bound)
    assert shift.eps == cfg.eps
    named = abra_loss.__kwdefaults__
    assert {n: named[n] for n in ("lam", "margin", "scale", "js_weight")} == {
        "lam": cfg.lam,
        "margin": cfg.margin,
        "scale": cfg.scale,
        "js_weight": cfg.js_weight,
    }


def test_half_precision_features_are_shifted_in_float32():
    shift, head = BatchShift(8), nn.Linear(8, 3)
    x, y = torch.randn(4, 8, 2, 2, dtype=torch.bfloat16), torch.tensor([0, 1, 2, 0])
    out = abra_loss(x, y, head, None, shift, alpha=0.1)
    assert shift(x).dtype == out.loss.dtype == out.logits.dtype == torch.float32


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"features": torch.randn(4, 5, 2, 2)}, r"BatchShift\(8\) shifts .* got \(4, 5, 2, 2\)"),
        ({"y": torch.rand(4)}, "y must be 4 integers"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, "y must be 4 integers"),
        ({"bio_batch": [0.5, 1, 2, 3]}, "bio_batch must be 4 integers"),
        ({"bio_batch": torch.tensor([1, 2])}, "bio_batch must be 4 integers"),
        ({"bio_batch": ["P1", "P1", "P2", "P2"]}, "bio_batch must be 4 integers.* got .'P1'"),
    ],
)
def test_what_does_not_fit_is_refused_before_K_moves(wrong, words):
    shift = BatchShift(8)
    given = {"features": torch.randn(4, 8, 2, 2), "y": torch.tensor([0, 1, 2, 0]), "bio_batch": None} | wrong
    with pytest.raises(InputError, match=words):
        abra_loss(classifier=nn.Linear(8, 3), arc_weight=None, shift=shift, alpha=0.1, **given)
    assert shift.seen.item() == 0


def own_rank_step():
    """K after a step on this rank's plate, the mean of the two plates' sigma, and this rank's batches."""
    shift, rank = BatchShift(3).double(), dist.rank()
    torch.manual_seed(0)
    head = nn.Linear(3, 4).double()
    x, y = (rank + 1) * torch.randn(5, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    torch.manual_seed(rank)
    abra_loss(x, y, head, None, shift, alpha=0.5, bio_batch=[rank] * 5)
    sampler = PlateBatchSampler([0] * 4 + [1] * 4, 2)
    return shift.K_mu, shift.sigma_ema, list(sampler)


def test_two_processes_have_one_K_and_batches_of_their_own(on_two_ranks):
    (K, sigma, mine), (K_other, sigma_other, others) = on_two_ranks(together, own_rank_step)
    assert torch.equal(K, K_other) and torch.equal(sigma, sigma_other)
    assert not torch.equal(K, 0.1 * sigma)
    assert sorted(row for rows in mine + others for row in rows) == list(range(8)) and len(mine) == 2
