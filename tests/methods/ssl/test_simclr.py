"""SimCLR against the double loop of its paper."""

from dataclasses import replace

import pytest
import torch

from abra_wilds.methods.ssl.simclr import SimCLR, SimCLRConfig
from tests.functional.test_ssl import slow_nt_xent
from tests.helpers import array, gradients, worst
from tests.methods.ssl.ssl_tools import build, sgd_step, view_batch

TINY = SimCLRConfig(hidden=9, out=7)


def projections(method, batch):
    """Of both views, which batch norm normalises together."""
    f = method.net(torch.cat(batch.views)).mean((2, 3))
    return method.projector(f).chunk(2)


def test_loss_equals_the_double_loop():
    method, batch = build(SimCLR, TINY), view_batch()
    a, b = projections(method, batch)
    out = method(batch)
    assert out.loss.item() == pytest.approx(slow_nt_xent(array(a), array(b), 0.1), abs=1e-10)
    assert out.logits is None


def test_swapped_views_leave_loss_and_gradients():
    method, batch = build(SimCLR, TINY), view_batch()
    a, b = (method(replace(batch, views=views)).loss for views in (batch.views, batch.views[::-1]))
    assert worst(a, b) < 1e-12
    assert worst(gradients(method, a), gradients(method, b)) < 1e-12


def test_encoder_and_projector_are_trained_and_the_classifier_is_not():
    method = build(SimCLR, TINY)
    found = gradients(method, method(view_batch()).loss)
    assert {n for n, g in found.items() if g is None or not g.any()} == {"head.weight", "head.bias"}
    ((parameters, factor),) = method.parameter_groups()
    trained = {id(p) for p in parameters}
    assert {n for n, p in method.named_parameters() if id(p) not in trained} == {"head.weight", "head.bias"}
    assert factor == 1.0


def test_training_lowers_the_loss_without_collapse():
    method, batch = build(SimCLR, TINY), view_batch(n=12)
    first = method(batch).loss.item()
    for _ in range(30):
        sgd_step(method, batch)
    out = method(batch)
    assert out.loss.item() < first - 0.1
    assert out.logs["spread"].item() > 0.5


def test_spread_is_logged_where_logs_are_read():
    batch = view_batch()
    assert set(build(SimCLR, TINY)(batch).logs) == {"spread"}
    assert build(SimCLR, TINY, log=False)(batch).logs == {}


def test_it_asks_for_two_views_alike_and_a_probe_whose_rates_grow_with_the_batch():
    method = build(SimCLR, SimCLRConfig(hidden=9, out=7, probe_batch_size=512, jitter=0.4))
    plan, phase = method.view_plan(), method.head_phase()
    assert plan.sizes == (0, 0)
    assert plan.scales == ((0.2, 1.0), (0.2, 1.0))
    assert (plan.jitter, plan.blur) == (0.4, (0.5, 0.5))
    assert phase.rates == pytest.approx((0.02, 0.06, 0.2, 0.6, 2.0))
    assert (phase.epochs, phase.batch_size, phase.optimizer) == (90, 512, "SGD")
    assert phase.weight_decay == 0
    assert phase.standardise
