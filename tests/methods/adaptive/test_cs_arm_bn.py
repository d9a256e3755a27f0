"""CS-ARM-BN: control wells enter the statistics and not the loss."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from abra_wilds.types import Target
from tests import reference
from tests.helpers import (
    array,
    assert_same_step,
    gradients,
    make_batch,
    make_method,
    target_arrays,
    worst,
)

G = (0, 1, 1, 0, 1, 0, 0, 1)
CONTEXT = torch.tensor([False, False, True, True, False, False, False, True])


def make(w=None):
    return replace(make_batch(G, w=w), context=CONTEXT)


@pytest.mark.parametrize("w", [None, 0.63])
def test_loss_equals_the_loop_that_normalises_by_all_and_learns_from_the_others(w):
    method, batch = make_method("CS-ARM-BN"), make(w)
    twin = copy.deepcopy(method)
    y, y_b, share = target_arrays(batch.target)
    Y, losses = reference.dense(y, 5, y_b, share), []
    for rows, learned in (([0, 3, 5, 6], [0, 2, 3]), ([1, 2, 4, 7], [0, 2])):
        f = array(twin.net(batch.x[rows])).mean((2, 3))
        z = f @ array(twin.head.weight).T + array(twin.head.bias)
        losses.append(reference.cross_entropy(z[learned], Y[rows][learned]))
    assert method(batch).loss.item() == pytest.approx(np.mean(losses), abs=1e-12)


def test_labels_of_the_context_are_not_read():
    method, batch = make_method("CS-ARM-BN"), make()
    y = torch.where(CONTEXT, (batch.target.y + 1) % 5, batch.target.y)
    other = replace(batch, target=Target(y))
    a, b = method(batch).loss, method(other).loss
    assert worst(a, b) < 1e-12
    assert worst(gradients(method, a), gradients(method, b)) < 1e-12
    assert worst(make_method("ARM-BN")(batch).loss, make_method("ARM-BN")(other).loss) > 1e-3


def test_images_of_the_context_move_the_logits_of_their_plate_alone():
    method, batch = make_method("CS-ARM-BN"), make()
    x = batch.x.clone()
    x[2] += torch.randn_like(x[2])  # a control of bio-batch 1
    moved = (method(batch).logits - method(replace(batch, x=x)).logits).abs().amax(1)
    assert (moved[[0, 3, 5, 6]] < 1e-12).all()
    assert (moved[[1, 4]] > 1e-3).all()


def test_the_gradient_goes_through_the_statistics_of_the_context():
    batch = make()
    x = batch.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(make_method("CS-ARM-BN")(replace(batch, x=x)).loss, x)
    assert (slope[CONTEXT].abs().amax((1, 2, 3)) > 1e-6).all()


def test_without_context_it_is_arm_bn():
    batch, arm, method = make_batch(G), make_method("ARM-BN"), make_method("CS-ARM-BN")
    assert_same_step(method, arm, batch)


def test_where_statistics_play_no_part_it_is_erm_on_the_rows_outside_the_context():
    batch, erm, method = make(), make_method("ERM"), make_method("CS-ARM-BN")
    for m in (*erm.net.modules(), *method.net.modules()):
        m.eval()
    learned = [0, 5, 6], [1, 4]
    parts = [erm(replace(batch, x=batch.x[r], target=Target(batch.target.y[r]))).loss for r in learned]
    a, b = method(batch).loss, torch.stack(parts).mean()
    assert worst(a, b) < 1e-12
    assert worst(gradients(method, a), gradients(erm, b)) < 1e-12
