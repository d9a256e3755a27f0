"""`adapted` and `predict` for any module: plate_bn's numbers, and a module that is left as it was found."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from abra_wilds import Batch, adapted, predict
from abra_wilds.tta.adapters import own_statistics
from abra_wilds.types import InputError
from tests import runs
from tests.helpers import make_method, worst
from tests.tta.reference import in_training_mode
from tests.tta.test_adapters import plate, trained


def volumes():
    """A network of one's own: three-dimensional, a frozen batch norm, dropout, no attribute of ours."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv3d(1, 4, 2), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
    net = nn.Sequential(body, nn.BatchNorm1d(4), nn.Linear(4, 5)).double()
    for _ in range(3):
        net(3 + torch.randn(8, 1, 2, 2, 2, dtype=torch.float64))
    net[1].eval()
    return net


def state(net):
    """Everything that `adapted` might leave changed: tensors, which ones they are, modes, hooks."""
    tensors = [*net.parameters(), *net.buffers()]
    return (
        copy.deepcopy(net.state_dict()),
        [id(t) for t in tensors],
        [t.requires_grad for t in tensors],
        [m.training for m in net.modules()],
        [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in net.modules()],
        torch.random.get_rng_state().tolist(),
    )


def assert_as_found(net, before):
    found = state(net)
    assert runs.differences(dict(before[0]), dict(found[0])) == [] and before[1:] == found[1:]


@pytest.mark.parametrize("prior", [0.0, 40.0, math.inf])
@pytest.mark.parametrize("name", ["ERM", "ABRA"])
def test_a_method_predicts_as_plate_bn_and_mixed_bn_do(name, prior):
    method, x = trained(name), plate(0)
    with adapted(method, x, prior=prior) as same:
        found = predict(same, x)
    assert same is method
    assert worst(found, own_statistics(method, [x], prior=prior)[0]) < 1e-12


def test_without_prior_any_module_is_as_in_training_mode():
    method, x = trained(), plate(0)
    net = nn.Sequential(method.net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), method.head)
    with adapted(net, x):
        assert worst(net(x), in_training_mode(method, x)) < 1e-11


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x,
        lambda x: [x[:5], x[5:6], x[6:]],
        lambda x: iter([(x[:7], "labels"), [x[7:]]]),
        lambda x: DataLoader(TensorDataset(x, torch.arange(len(x))), batch_size=5),
        lambda x: [Batch.of(part, torch.zeros(6, dtype=torch.int64)) for part in x.split(6)],
    ],
    ids=["tensor", "list", "iterator of tuples and lists", "DataLoader", "Batch"],
)
def test_neither_adaptation_nor_prediction_depends_on_how_images_come(cut):
    net, x = volumes(), torch.randn(12, 1, 2, 2, 2, dtype=torch.float64)
    with adapted(net, x, batch_size=12):
        want = net(x)
    with adapted(net, cut(x), batch_size=4):
        assert worst(net(x), want) < 1e-12
        assert worst(predict(net, cut(x), batch_size=4), want) < 1e-12
    assert worst(predict(net, x), want) > 0.01


@pytest.mark.parametrize("training", [True, False])
def test_the_module_is_left_as_it_was_found(training):
    net, x = volumes(), torch.randn(12, 1, 2, 2, 2, dtype=torch.float64)
    net[0].train(training)
    before = state(net)
    with adapted(net, x) as inside:
        assert not any(m.training for m in inside.modules())
        predict(inside, x)
    assert_as_found(net, before)
    logits = predict(net, x)
    assert_as_found(net, before)
    assert not logits.requires_grad and logits.shape == (12, 5)


def test_the_module_is_left_as_it_was_found_after_a_fault_inside_and_one_while_adapting():
    net, x = volumes(), torch.randn(12, 1, 2, 2, 2, dtype=torch.float64)
    before = state(net)
    with pytest.raises(ZeroDivisionError), adapted(net, x):
        raise ZeroDivisionError
    assert_as_found(net, before)
    for call in (lambda: adapted(net, [x, x[:, :, :1]]).__enter__(), lambda: predict(net, x[:, :, :1])):
        with pytest.raises(RuntimeError):
            call()
        assert_as_found(net, before)


def test_gradients_pass_inside_but_not_into_the_statistics():
    net, x = volumes(), torch.randn(12, 1, 2, 2, 2, dtype=torch.float64)
    with adapted(net, x):
        net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


class Two(nn.Module):
    """Returns two tensors."""

    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: adapted(nn.Linear(6, 2), x), "Linear has no batch norm"),
        (lambda x: adapted(nn.BatchNorm2d(3, track_running_stats=False), x), "no batch norm with running"),
        (lambda x: adapted(nn.BatchNorm2d(3), x[:1]), "two images or more"),
        (lambda x: adapted(nn.BatchNorm2d(3), []), "two images or more"),
        (lambda x: adapted(nn.BatchNorm2d(3), [{"image": x}]), "begins with one; got dict"),
    ],
)
def test_what_cannot_be_adapted_is_refused(call, words):
    with pytest.raises(InputError, match=words), call(plate(0).float()):
        pass


@pytest.mark.parametrize(
    "net, images, words",
    [
        (nn.Identity(), torch.zeros(0, 3, 2, 2), "no images to predict"),
        (nn.Identity(), [], "no images to predict"),
        (nn.Identity(), ["a.png"], "got str"),
        (Two(), torch.zeros(4, 3), "Two returns tuple"),
        (nn.Flatten(0), torch.zeros(4, 3), "a row for each image"),
    ],
)
def test_what_cannot_be_predicted_is_refused(net, images, words):
    with pytest.raises(InputError, match=words):
        predict(net, images)


def test_predict_takes_a_methods_logits_and_keeps_the_order():
    method, x = make_method("ABRA").train(), plate(1)
    logits = predict(method, DataLoader(x, batch_size=5))
    assert method.training
    assert worst(logits, method.eval().predict(x)) < 1e-12
