"""BYOL: its loss, and a teacher that follows and is never differentiated."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from abra_wilds.methods.ssl.byol import BYOL, BYOLConfig
from abra_wilds.types import StepContext
from tests.helpers import array, worst
from tests.methods.ssl.ssl_tools import build, equal, sgd_step, states, view_batch

TINY = BYOLConfig(hidden=9, out=7)


def slow_loss(method, batch):
    """2 - 2 cos for both directions, one image after another."""
    f = [method.net(v).mean((2, 3)) for v in batch.views]
    p = [array(method.predictor(method.projector(x))) for x in f]
    t = [array(method.teacher_projector(method.teacher_net(v).mean((2, 3)))) for v in batch.views]
    total = 0.0
    for a, b in ((p[0], t[1]), (p[1], t[0])):
        for u, v in zip(a, b, strict=True):
            total += (2 - 2 * u @ v / np.linalg.norm(u) / np.linalg.norm(v)) / len(a)
    return total


def test_loss_equals_the_slow_loop_also_once_the_teacher_is_another_network():
    method, batch = build(BYOL, TINY), view_batch()
    assert method(batch).loss.item() == pytest.approx(slow_loss(method, batch), abs=1e-10)
    sgd_step(method, batch, lr=1.0)
    assert not equal(states(method, 0), states(method, 1))
    out = method(batch)
    assert out.loss.item() == pytest.approx(slow_loss(method, batch), abs=1e-10)
    assert out.logits is None


class Replay(torch.nn.Module):
    """Gives out what it was given, whatever it is asked."""

    def __init__(self, answers):
        super().__init__()
        self.answers = iter(answers)

    def forward(self, x):
        return next(self.answers)


def test_loss_is_0_for_a_perfect_prediction_and_8_for_its_opposite():
    method, batch = build(BYOL, TINY), view_batch()
    assert 0 < method(batch).loss.item() < 8
    z = [method.target(v) for v in batch.views[::-1]]
    method.predictor = Replay([*z, *(-t for t in z)])
    assert method(batch).loss.item() == pytest.approx(0, abs=1e-10)
    assert method(batch).loss.item() == pytest.approx(8, abs=1e-10)


def test_swapped_views_leave_the_loss():
    method, batch = build(BYOL, TINY), view_batch()
    a, b = (method(replace(batch, views=views)).loss for views in (batch.views, batch.views[::-1]))
    assert worst(a, b) < 1e-12


def test_weights_and_running_statistics_of_the_teacher_are_moving_averages_of_the_students():
    method, batch = build(BYOL, TINY, progress=0.5), view_batch()
    before = states(method, 1)
    sgd_step(method, batch)
    student, teacher = states(method, 0), states(method, 1)
    for name, t in teacher.items():
        if t.is_floating_point():
            assert torch.allclose(t, 0.995 * before[name] + 0.005 * student[name], atol=1e-12), name
    moved = [n for n in teacher if "running_mean" in n and not torch.equal(teacher[n], before[n])]
    assert len(moved) == 6


def test_the_teachers_own_passes_leave_its_running_statistics_and_normalise_by_the_batch():
    method, batch = build(BYOL, TINY), view_batch()
    before = states(method, 1)
    first = method.target(batch.views[0])
    method.target(10 * batch.views[1])
    assert equal(states(method, 1), before)
    assert torch.equal(method.target(batch.views[0]), first)
    assert first.mean(0).abs().max() < 5


def test_training_lowers_the_loss_and_spread_is_logged_where_logs_are_read():
    method, batch = build(BYOL, TINY), view_batch(n=12)
    first = method(batch)
    assert set(first.logs) == {"spread"}
    for _ in range(20):
        sgd_step(method, batch, lr=0.3)
    assert method(batch).loss.item() < first.loss.item() - 0.1
    method.context = StepContext(0.1, False)
    assert method(batch).logs == {}


def test_a_collapsed_projector_shows_in_spread():
    method, batch = build(BYOL, TINY), view_batch()
    last = method.projector.layers[-1]
    last.weight.data.zero_()
    last.bias.data.fill_(1.0)
    assert method(batch).logs["spread"].item() < 1e-6


def test_it_asks_for_two_views_of_which_the_first_is_blurred_and_for_the_probe():
    method = build(BYOL, TINY)
    assert method.view_plan().blur == (1.0, 0.1)
    assert method.head_phase().rates == (0.01, 0.03, 0.1, 0.3, 1.0)
