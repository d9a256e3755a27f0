"""ARM-BN against a loop over bio-batches, and what its statistics make of shifts."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from abra_wilds.methods.adaptive.arm_bn import mean_over_groups
from tests import reference
from tests.helpers import array, assert_same_step, make_batch, make_method, target_arrays, worst

G = (0, 1, 1, 0, 2, 2, 0, 1, 1)
ROWS = [[0, 3, 6], [1, 2, 7, 8], [4, 5]]


def batch_norms(method):
    return [m for m in method.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("w", [None, 0.63])
def test_loss_equals_the_loop_in_which_every_bio_batch_is_a_batch_of_its_own(w):
    method, batch = make_method("ARM-BN"), make_batch(G, w=w)
    twin = copy.deepcopy(method)
    y, y_b, share = target_arrays(batch.target)
    Y, losses, z = reference.dense(y, 5, y_b, share), [], np.empty((9, 5))
    for rows in ROWS:
        f = array(twin.net(batch.x[rows])).mean((2, 3))
        z[rows] = f @ array(twin.head.weight).T + array(twin.head.bias)
        losses.append(reference.cross_entropy(z[rows], Y[rows]))
    out = method(batch)
    assert out.loss.item() == pytest.approx(np.mean(losses), abs=1e-12)
    np.testing.assert_allclose(array(out.logits), z, atol=1e-12)


def test_every_bio_batch_weighs_alike_whatever_its_size():
    losses = torch.tensor([1.0, 10.0, 20.0, 3.0, 100.0, 200.0, 5.0, 30.0, 40.0])
    groups = tuple(map(torch.tensor, ROWS))
    assert mean_over_groups(losses, groups).item() == pytest.approx((3 + 25 + 150) / 3)


def test_with_frozen_batch_norms_and_equal_bio_batches_it_is_erm():
    batch, erm, method = make_batch((0, 1, 1, 0, 2, 2)), make_method("ERM"), make_method("ARM-BN")
    method.load_state_dict(erm.state_dict())
    for m in batch_norms(erm) + batch_norms(method):
        m.eval()
    a, b = assert_same_step(method, erm, batch)
    assert worst(a.logits, b.logits) < 1e-12


def test_with_one_bio_batch_a_step_is_erms_on_it_which_is_adabns_training():
    batch, erm, method = make_batch((3,) * 7), make_method("ERM"), make_method("ARM-BN")
    assert_same_step(method, erm, batch)
    assert worst(dict(method.named_buffers()), dict(erm.named_buffers())) < 1e-12


def test_a_channel_wise_affine_change_of_a_bio_batch_before_the_first_batch_norm_changes_nothing():
    def logits(name, moved):
        method = make_method(name)
        stem = method.net.stages["stem"]
        for m in batch_norms(method):
            m.eps = 1e-14
        conv = stem[0]

        def changed(module, inputs, output):
            # Whose images these are shows in their level: bio-batch 1 is moved, bio-batch 0 is not.
            mark = (inputs[0][:, :1].mean((2, 3), keepdim=True) > 25).double()
            gain, offset = (
                torch.linspace(a, b, 3).reshape(1, 3, 1, 1).double() for a, b in ((2, 5), (-3, 4))
            )
            return output * (1 + mark * (gain - 1)) + mark * offset

        if moved:
            conv.register_forward_hook(changed)
        batch = make_batch((0, 1, 0, 1, 1, 0))
        return method(replace(batch, x=batch.x + 50 * batch.g.reshape(-1, 1, 1, 1))).logits

    assert worst(logits("ARM-BN", False), logits("ARM-BN", True)) < 1e-8
    assert worst(logits("ERM", False), logits("ERM", True)) > 1e-3


def test_another_bio_batchs_images_change_nothing():
    method, batch = make_method("ARM-BN"), make_batch(G)
    other = batch.x.clone()
    other[ROWS[1]] = torch.randn_like(other[ROWS[1]])
    a, b = method(batch).logits, method(replace(batch, x=other)).logits
    assert worst(a[ROWS[0] + ROWS[2]], b[ROWS[0] + ROWS[2]]) < 1e-12
    assert worst(a[ROWS[1]], b[ROWS[1]]) > 1e-3


def test_running_statistics_take_one_step_for_each_bio_batch():
    method, batch = make_method("ARM-BN"), make_batch(G)
    conv, norm = method.net.stages["stem"][:2]
    mean, var = array(norm.running_mean), array(norm.running_var)
    for rows in ROWS:
        a = array(conv(batch.x[rows]))
        mean = 0.9 * mean + 0.1 * a.mean((0, 2, 3))
        var = 0.9 * var + 0.1 * a.var((0, 2, 3)) * a[:, 0].size / (a[:, 0].size - 1)
    method(batch)
    np.testing.assert_allclose(array(norm.running_mean), mean, atol=1e-12)
    np.testing.assert_allclose(array(norm.running_var), var, atol=1e-12)
    assert norm.num_batches_tracked == 3
