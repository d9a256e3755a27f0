"""LISA: images of one class that carry a box of each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from abra_wilds.data.augment.mixing import mix
from abra_wilds.methods.mixing.lisa import LISA
from abra_wilds.types import Target
from tests import reference
from tests.helpers import array, clean_map, gradients, make_batch, make_method, worst


def doubled(batch, partner):
    """A batch as the pairs loader makes it: rows, then the partners of each."""
    both = torch.cat([torch.arange(len(batch)), partner])
    return replace(batch, x=batch.x[both], target=Target(batch.target.y[both]), g=batch.g[both])


def test_paired_with_itself_it_is_erm_on_the_batch():
    batch, erm, method = make_batch((0, 1, 2, 0, 1, 4)), make_method("ERM"), make_method("LISA")
    pairs = doubled(batch, torch.arange(6))
    mixed = mix(pairs, "lisa", np.random.default_rng(0), alpha=2.0)
    assert torch.equal(mixed.x, pairs.x)
    a, b = method(mixed), erm(batch)
    assert worst(a.loss, b.loss) < 1e-12
    assert worst(gradients(method, a.loss), gradients(erm, b.loss)) < 1e-12


def test_as_labels_of_partners_agree_the_mixed_target_is_the_hard_one():
    batch = make_batch((0, 1, 2, 0, 1, 4))
    batch = replace(batch, target=Target(torch.tensor([3, 0, 1, 3, 0, 1])))
    pairs = doubled(batch, torch.tensor([3, 4, 5, 0, 1, 2]))
    soft = Target(pairs.target.y, pairs.target.y.roll(6), 0.3)
    assert torch.equal(soft.dense(5, torch.float64), pairs.target.dense(5, torch.float64))


def test_loss_equals_mean_cross_entropy_of_the_mixed_images():
    batch = make_batch((0, 1, 2, 0, 1, 4))
    batch = replace(batch, target=Target(torch.tensor([3, 0, 1, 3, 0, 1])))
    pairs = doubled(batch, torch.tensor([3, 4, 5, 0, 1, 2]))
    mixed = mix(pairs, "lisa", np.random.default_rng(3), alpha=2.0)
    assert not torch.equal(mixed.x, pairs.x)
    method = make_method("LISA")
    z = clean_map(method, mixed).mean((2, 3)) @ array(method.head.weight).T + array(method.head.bias)
    want = reference.cross_entropy(z, reference.dense(pairs.target.y.numpy(), 5))
    assert method(mixed).loss.item() == pytest.approx(want, abs=1e-10)


def test_it_asks_for_pairs_across_experiments_mixed_with_beta_2_2():
    plan = LISA.plan
    assert (plan.train_loader, plan.mix, plan.mix_alpha, plan.groupby_fields) == (
        "pairs", "lisa", 2.0, ("experiment",),
    )  # fmt: skip
