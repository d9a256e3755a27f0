"""What BYOL and DINOv2 ask of their teachers alike: they start as copies, follow, and are never trained."""

from dataclasses import replace

import pytest
import torch

from abra_wilds.methods.ssl.byol import BYOL, BYOLConfig
from abra_wilds.methods.ssl.dino import DINOv2, DINOv2Config
from tests.methods.settings import TINY_DINO
from tests.methods.ssl.ssl_tools import GLOBAL, LOCAL, build, equal, sgd_step, states, view_batch

# method -> (configuration, sides of the views)
TINY = {
    BYOL: (BYOLConfig(hidden=9, out=7), (6, 6)),
    DINOv2: (DINOv2Config(**TINY_DINO), (GLOBAL, GLOBAL, LOCAL, LOCAL, LOCAL)),
}
CLASSIFIER = {"head.weight", "head.bias"}
EACH = pytest.mark.parametrize("cls", TINY)


def made(cls, seed=0, **changes):
    return build(cls, replace(TINY[cls][0], **changes), vit=cls is DINOv2, seed=seed)


def batch(cls, seed=1):
    return view_batch(TINY[cls][1], seed=seed)


@EACH
def test_the_teacher_starts_as_a_copy_heads_included_also_if_weights_are_loaded_later_and_only_once(cls):
    method = made(cls)
    assert equal(states(method, 0), states(method, 1))
    method.net.load_state_dict(made(cls, seed=5).net.state_dict())
    start = states(method, 0)
    method(batch(cls))
    assert equal(states(method, 1), start)
    sgd_step(method, batch(cls))
    before = states(method, 1)
    method(batch(cls))
    assert equal(states(method, 1), before)


@EACH
def test_nothing_of_the_teacher_is_differentiated_or_handed_to_the_optimiser(cls):
    method = made(cls)
    method(batch(cls)).loss.backward()
    teacher = [p for n, p in method.named_parameters() if n.startswith("teacher_")]
    assert len(teacher) > 5
    assert not any(p.requires_grad or p.grad is not None for p in teacher)
    trained = {id(p) for group, _ in method.parameter_groups() for p in group}
    assert trained.isdisjoint(map(id, teacher))


@EACH
def test_everything_else_but_the_classifier_is_trained_and_belongs_to_one_group(cls):
    method = made(cls)
    sgd_step(method, batch(cls, seed=3))  # at the start units may be dead by symmetry
    method.zero_grad()
    method(batch(cls)).loss.backward()
    learned = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert {n for n, p in learned.items() if p.grad is None or not p.grad.any()} == CLASSIFIER
    grouped = [id(p) for group, _ in method.parameter_groups() for p in group]
    assert len(grouped) == len(set(grouped))
    assert {n for n, p in learned.items() if id(p) not in grouped} == CLASSIFIER


@EACH
def test_momentum_1_leaves_the_teacher_and_momentum_0_makes_it_the_student(cls):
    constant, copied = (made(cls, momentum=m) for m in (1.0, 0.0))
    start = states(constant, 1)
    for method in (constant, copied):
        for _ in range(3):
            sgd_step(method, batch(cls))
    teacher = states(constant, 1)
    assert all(torch.equal(teacher[k], t) for k, t in start.items() if t.is_floating_point())
    assert equal(states(copied, 1), states(copied, 0))
