"""Invariants T10-T17: what images, noise, bio-batches and number formats may change, and what not."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from abra_wilds.data.augment.mixing import mix
from abra_wilds.data.datasets.catalogue import load_dataset, make_grouper, split_subset
from abra_wilds.data.reading.loaders import make_train_loader
from abra_wilds.functional.precision import full_precision
from abra_wilds.functional.stats import channel_stats, restyle
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.abra.perturbation import BatchShift, Insertion
from abra_wilds.types import Batch, Target
from tests.helpers import (
    CHANNELS,
    gradients,
    groups_of,
    magnitudes,
    make_batch,
    make_method,
    record_draws,
    set_magnitudes,
    worst,
)

FREE = {"alpha": 0.3, "k_bound": math.inf, "k_init": 0.4}


def test_T10_evaluation_depends_neither_on_K_nor_on_the_other_images():
    method, batch = make_method("ABRA", ABRAConfig(alpha=0.1)), make_batch()
    method(batch)
    method.eval()
    with torch.no_grad():
        whole = method.predict(batch.x)
        set_magnitudes(method, 1e6)
        method.arc_weight.fill_(1e6)
        assert torch.equal(method.predict(batch.x), whole)
        parts = torch.cat([method.predict(x[None]) for x in batch.x])
    assert worst(parts, whole) < 1e-13


def test_T11_one_draw_for_each_channel_shifts_every_image_alike():
    method, batch = make_method("ABRA", ABRAConfig(**FREE)), make_batch()
    points = method.perturb.clean(method.net, batch)
    (noise,) = method.perturb.draw(points, batch)
    assert [tuple(e.shape) for e in noise] == [(CHANNELS["res4"],)] * 2
    f_t = method.perturb.shifted(method.net, points[0], [noise], batch)
    point = points[0]
    d_mu, d_sigma = method.perturb["res4"].shifts(noise, torch.ones(6))
    rest = f_t - point.x - d_sigma * (point.x - point.mu) / point.sigma  # (N, C)
    assert worst(rest, d_mu.expand_as(rest)) < 1e-12
    assert d_mu.abs().min() > 0


def test_T12_the_sign_of_K_is_that_of_the_noise():
    perturb = BatchShift(4, 0.1, True, math.inf)
    X = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    noise, K = [tuple(t) for t in torch.randn(2, 2, 4, dtype=torch.float64)]
    noise_minus, K_minus = [tuple(-t for t in pair) for pair in (noise, K)]
    mu, sigma = channel_stats(X)
    point = Insertion(X, mu, sigma)
    assert torch.equal(perturb.shifted(point, noise, K), perturb.shifted(point, noise_minus, K_minus))
    assert not torch.equal(perturb.shifted(point, noise, K), perturb.shifted(point, noise, K_minus))


@pytest.mark.parametrize("train_loader, n_groups", [("plate", 1), ("group", 1), ("group", 2)])
def test_T13_a_batch_is_of_one_plate_and_so_are_the_partners_of_cutmix(sim_root, train_loader, n_groups):
    dataset = load_dataset("rxrx1", sim_root)
    grouper = make_grouper(dataset, ["experiment", "plate"])
    fields = [dataset.metadata_fields.index(f) for f in ("experiment", "plate")]
    sizes = {"batch_size": 6, "n_groups_per_batch": n_groups}
    loader = make_train_loader(split_subset(dataset, "train"), grouper, train_loader=train_loader, **sizes)
    rng, batches, pasted = np.random.default_rng(0), 0, 0
    for batch in loader:
        plates = [tuple(row[fields].tolist()) for row in batch.metadata]
        assert len(set(plates)) == n_groups == len(batch.groups)
        batches += 1
        rows = torch.arange(len(batch)).float().reshape(-1, 1, 1, 1)
        # Pixels tell whose they are.
        mixed = mix(dataclasses.replace(batch, x=rows.expand(-1, 1, 8, 8)), "cutmix", rng)
        for n in range(len(batch)):
            partners = {int(p) for p in mixed.x[n].unique()} - {n}
            assert all(plates[p] == plates[n] for p in partners)
            assert all(mixed.target.y_b[n] == batch.target.y[p] for p in partners)
            pasted += len(partners)
    assert batches == len(loader) > 4
    assert pasted > batches


def test_T14_K_stays_within_its_bound_however_large_the_steps():
    perturb = BatchShift(4, start=0.1, relative=True, bound=0.5).double()
    torch.manual_seed(0)
    followed = None
    for _ in range(1000):
        sigma = torch.rand(4, dtype=torch.float64) + 0.1
        followed = sigma if followed is None else 0.9 * followed + 0.1 * sigma
        perturb.observe(sigma)
        perturb.ascend(*torch.randn(2, 4, dtype=torch.float64), step_size=1e9)
        for K in (perturb.K_mu, perturb.K_sigma):
            assert torch.allclose(K.abs(), 0.5 * followed, rtol=1e-12, atol=0)
    method = make_method("ABRA", ABRAConfig(alpha=1e9))
    logs = method(make_batch()).logs
    assert logs["K_rel_max"].item() == pytest.approx(0.5)
    assert logs["K_at_bound"].item() == 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("at", [("res4",), ("res3",)])
def test_T15_half_precision_gives_finite_losses_for_cosines_of_one_dead_variance_and_two_images(dtype, at):
    method = make_method("ABRA", ABRAConfig(at=at), dtype=torch.float32)
    batch = make_batch((0, 0), dtype=torch.float32)
    with torch.no_grad():
        for name in ("res3", "res4"):
            method.net.stages[name][1].weight[1] = 0  # a channel of constant value 0.7
            method.net.stages[name][1].bias[1] = 0.7
        f = method.features(batch.x)
        method.arc_weight[batch.target.y] = f
        method.arc_weight[(batch.target.y + 1) % 5] = -f
    with torch.autocast("cpu", dtype=dtype):
        out = method(batch)
    out.loss.backward()
    assert out.loss.dtype == torch.float32
    assert out.loss.isfinite()
    assert all(v.isfinite().all() for v in out.logs.values())
    assert all(p.grad.isfinite().all() for p in method.parameters())
    assert all(b.isfinite().all() for b in method.buffers())


@pytest.mark.parametrize("at", [("res4",), ("res3",)])
def test_T16_a_dead_channel_is_shifted_by_d_mu_alone_and_keeps_gradients_finite(at):
    X = torch.randn(3, 4, 2, 2, dtype=torch.float64).relu()
    X[:, 2] = 0
    d_mu, d_sigma = torch.randn(2, 4, dtype=torch.float64)
    X_t = restyle(X, *channel_stats(X), d_mu, d_sigma)
    assert torch.equal(X_t[:, 2], d_mu[2].expand(3, 2, 2))
    method, batch = make_method("ABRA", ABRAConfig(at=at)), make_batch()
    with torch.no_grad():
        method.net.stages[at[0]][1].bias[2] = -1e3  # ReLU lets nothing of this channel through
    out = method(batch)
    assert out.loss.isfinite()
    assert all(g.isfinite().all() for g in gradients(method, out.loss).values())
    assert all(b.isfinite().all() for b in method.buffers())


@pytest.mark.parametrize("g", [(0,) * 6, (0, 1, 1, 0, 2, 2)], ids=["one bio-batch", "three"])
def test_T17_permuting_the_batch_permutes_the_logits_and_nothing_else(g):
    batch, order = make_batch(g), torch.tensor([3, 0, 5, 1, 4, 2])
    ids, groups = batch.g[order], groups_of(batch.g[order].tolist())
    mixed = Batch(batch.x[order], Target(batch.target.y[order]), ids, batch.metadata[order], order, groups)
    method, other = (make_method("ABRA", ABRAConfig(**FREE)) for _ in range(2))
    drawn = record_draws(method)
    a = method(batch)
    permuted = [[tuple(e if e.dim() == 1 else e[order] for e in pair) for pair in noise] for noise in drawn]
    record_draws(other, permuted)
    b = other(mixed)
    assert worst(a.loss, b.loss) < 1e-12
    assert worst(a.logits[order], b.logits) < 1e-12
    assert worst(magnitudes(method)["res4"][0], magnitudes(other)["res4"][0]) < 1e-12
    assert worst(gradients(method, a.loss), gradients(other, b.loss)) < 1e-11


def test_full_precision_switches_autocast_off():
    with torch.autocast("cpu", dtype=torch.bfloat16), full_precision("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_point_that_is_detached_keeps_its_values():
    point = Insertion(*(torch.ones(2, requires_grad=True) * 2 for _ in range(3)))
    assert not any(t.requires_grad for t in vars(point.detach()).values())
    assert torch.equal(point.detach().x, point.x)
