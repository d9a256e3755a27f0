"""Batches of plain tensors, and methods that nobody tells anything of the engine."""

import numpy as np
import pytest
import torch

from abra_wilds import METHODS, Batch, DataInfo, StepContext, Target
from abra_wilds.types import InputError
from tests.helpers import make_batch, make_info, make_method, tiny_net, worst
from tests.methods.settings import SETTINGS, THREE


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_plain_tensors_gives_every_method_the_step_of_a_loaders(name):
    cfg, batch = next(iter(SETTINGS[name].values())), make_batch(THREE, w=0.63)
    plain = Batch.of(batch.x, batch.target, batch.g.tolist())
    method, twin, losses = make_method(name, cfg), make_method(name, cfg), []
    for each, given in ((method, batch), (twin, plain)):
        each.context = StepContext()
        torch.manual_seed(0)
        losses.append(each(given).loss)
        each.after_step()
    assert losses[0].isfinite() and worst(*losses) == 0
    assert worst(dict(method.named_buffers()), dict(twin.named_buffers())) == 0


@pytest.mark.parametrize("name", ["ABRA", "AdvStyle", "DANN"])
def test_a_method_fresh_from_its_class_makes_a_step(name):
    cls = METHODS[name]
    method = cls(tiny_net(0), make_info(), cls.Config())
    out = method(Batch.of(torch.randn(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2]), THREE))
    out.loss.backward()
    assert method.head.weight.grad.abs().sum() > 0
    assert method.context == StepContext(lr=1e-3, log=True, epoch=0, progress=0.0)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list], ids=["tensor", "array", "list"])
def test_bio_batches_are_any_integers_in_order_of_first_appearance(kind):
    ids = [9_000_000_000, -4, 9_000_000_000, 7, -4]
    batch = Batch.of(torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1], dtype=torch.uint8), kind(ids))
    assert [rows.tolist() for rows in batch.groups] == [[0, 2], [1, 4], [3]]
    assert batch.g.tolist() == ids and batch.target.y.dtype == torch.int64
    assert batch.rows.tolist() == [0, 1, 2, 3, 4] and batch.metadata.shape == (5, 0)
    alone = Batch.of(batch.x, batch.target)
    assert [rows.tolist() for rows in alone.groups] == [[0, 1, 2, 3, 4]] and alone.target is batch.target


def test_what_is_no_batch_is_refused():
    x = torch.rand(4, 1, 2, 2)
    for y in (torch.rand(4), torch.zeros(4, 2, dtype=torch.int64), Target(torch.zeros(3, dtype=torch.int64))):
        with pytest.raises(InputError, match="y must be 4 integers, one for each image; got"):
            Batch.of(x, y)
    with pytest.raises(InputError, match=r"bio_batch must be 4 integers.*got .4,. of torch.bool"):
        Batch.of(x, torch.tensor([0, 1, 2, 0]), [True, False, True, False])


def test_data_of_one_kind_of_bio_batch_need_say_only_their_classes():
    assert DataInfo(5) == DataInfo(5, 3, 1, (0,))
