"""Teachers follow their students, running statistics included."""

import torch

from abra_wilds.nets.teacher import follow, frozen_copy
from tests.helpers import tiny_net


def apart():
    """A student that has moved away from its teacher, in weights and in running statistics."""
    student = tiny_net().double()
    teacher = frozen_copy(student)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in student.parameters():
            p += torch.randn_like(p)
    student(torch.randn(8, 3, 4, 4, dtype=torch.float64))
    return teacher, student


def state(net):
    return {name: t.clone() for name, t in net.state_dict().items()}


def floats(net):
    return {name: t for name, t in state(net).items() if t.is_floating_point()}


def test_a_frozen_copy_is_equal_its_own_and_not_trained():
    student = tiny_net()
    teacher = frozen_copy(student)
    assert all(torch.equal(t, teacher.state_dict()[name]) for name, t in student.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    assert {p.data_ptr() for p in teacher.parameters()}.isdisjoint(p.data_ptr() for p in student.parameters())


def test_momentum_0_makes_equal_and_momentum_1_changes_nothing():
    teacher, student = apart()
    before = floats(teacher)
    follow(teacher, student, 1.0)
    assert all(torch.equal(t, before[name]) for name, t in floats(teacher).items())
    follow(teacher, student, 0.0)
    assert all(torch.equal(t, state(student)[name]) for name, t in state(teacher).items())


def test_weights_and_running_statistics_move_by_the_same_average():
    teacher, student = apart()
    before, target = floats(teacher), floats(student)
    follow(teacher, student, 0.9)
    for name, t in floats(teacher).items():
        assert torch.allclose(t, 0.9 * before[name] + 0.1 * target[name], atol=1e-14), name
    assert any("running_var" in name and not torch.equal(before[name], target[name]) for name in before)
