"""Adapters: AdaBN's invariances on a whole method, end points, controls, and a method left as it was."""

import copy
import math

import pytest
import torch
from torch import nn

from abra_wilds.config.evaluation import TTA, EvalConfig
from abra_wilds.methods.base import Method
from abra_wilds.tta.adapters import (
    ADAPTERS,
    check_adaptable,
    first_pass_statistics,
    make_adapter,
    own_statistics,
    running_statistics,
)
from abra_wilds.types import InputError
from tests import runs
from tests.helpers import make_method, worst
from tests.tta.reference import in_training_mode, norms_of, with_statistics_of

EPS = 1e-9  # of the batch norms below: invariance holds up to it


def trained(name="ERM"):
    """A method in evaluation mode whose running statistics are of other images than any test's."""
    method = make_method(name)
    for m in norms_of(method):
        m.eps = EPS
    with torch.no_grad():
        for _ in range(3):
            method.predict(plate(50, scale=2.0))
    return method.eval()


def plate(seed, N=12, scale=1.0):
    """The images of a plate, (N, 3, 6, 6) float64."""
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(N, 3, 6, 6, generator=rng, dtype=torch.float64) + scale


def affine(x, seed=3):
    """Every channel scaled by something positive and shifted."""
    rng = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(3, 1, 1, generator=rng, dtype=torch.float64) for _ in range(2))
    return (0.5 + 2 * a) * x + 4 * b


@pytest.mark.parametrize("name", TTA)
def test_the_method_is_left_bit_for_bit_and_in_evaluation_mode(name):
    method = trained()
    before, own, modes = copy.deepcopy(method.state_dict()), list(method.parameters()), []
    learning = [p.requires_grad for p in own]
    method.head.register_forward_hook(lambda *_: modes.append([m.training for m in method.modules()]))
    logits = make_adapter(EvalConfig(tta=name))(method, [plate(0), plate(1, N=5)])
    assert [tuple(z.shape) for z in logits] == [(12, 5), (5, 5)]
    assert runs.differences(dict(before), dict(method.state_dict())) == []
    assert [id(p) for p in method.parameters()] == [id(p) for p in own], "the very parameters"
    assert [p.requires_grad for p in own] == learning and all(p.grad is None for p in own)
    assert len(modes) == 2 * (1 + (name == "sar")), "SAR looks twice"
    assert not any(any(mode) for mode in modes), "dropout and the like stay off"
    assert not any(z.requires_grad for z in logits)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in norms_of(method))
    assert "classify" not in vars(method)


def test_there_is_an_adapter_for_every_choice():
    assert tuple(ADAPTERS) == TTA


@pytest.mark.parametrize("name", ["ERM", "ABRA"])
def test_one_pass_over_a_plate_is_batch_norm_in_training_mode(name):
    method, x = trained(name), plate(0)
    assert worst(own_statistics(method, [x])[0], in_training_mode(method, x)) < 1e-11


def first_layer_affine(method, x):
    """The plate with a positive affine change of every channel before the first batch norm."""
    conv = method.net.stages["stem"][0]
    a = 0.3 + torch.arange(3.0).double()[:, None, None]
    b = torch.tensor([[[5.0]], [[-2.0]], [[0.5]]]).double()
    handle = conv.register_forward_hook(lambda _m, _i, out: a * out + b)
    try:
        return own_statistics(method, [x])[0]
    finally:
        handle.remove()


def test_a_positive_affine_change_before_the_first_batch_norm_changes_no_logit():
    method, x = trained(), plate(0)
    assert worst(first_layer_affine(method, x), own_statistics(method, [x])[0]) < 1e-6


def test_a_positive_affine_change_of_a_plates_input_changes_no_logit():
    """The first layer is a 1x1 convolution of one channel each, through which the change goes as it is."""
    method = trained()
    method.net.stages["stem"][0] = nn.Conv2d(3, 3, 1, groups=3, bias=False).double()
    x, changed = plate(0), affine(plate(0))
    assert worst(own_statistics(method, [changed])[0], own_statistics(method, [x])[0]) < 1e-6
    without = [running_statistics(method, [images])[0] for images in (changed, x)]
    assert worst(*without) > 0.1, "without adaptation it does"


def test_images_of_another_pass_change_nothing():
    method = trained()
    a = own_statistics(method, [plate(0), plate(1)])
    b = own_statistics(method, [plate(2), plate(1)])
    assert torch.equal(a[1], b[1]) and not torch.equal(a[0], b[0])


def test_a_prior_goes_from_the_plates_statistics_to_the_running_ones():
    method, x = trained(), plate(0)
    plain, adapted = running_statistics(method, [x])[0], own_statistics(method, [x])[0]
    mixed = {M: own_statistics(method, [x], prior=M)[0] for M in (0.0, 1.0, 12.0, 500.0, math.inf)}
    assert torch.equal(mixed[0.0], adapted) and torch.equal(mixed[math.inf], plain)
    away = [float((z - plain).abs().max()) for z in mixed.values()]
    assert away == sorted(away, reverse=True) and away[0] > 0.1 > away[-1]


def test_the_prior_counts_images_of_the_pass():
    """12 images and M = 12 weigh alike, and so do 6 and 6."""
    method, x = trained(), torch.cat([plate(0, N=6)] * 2)
    twice = own_statistics(method, [x], prior=12.0)[0][:6]
    assert worst(twice, own_statistics(method, [x[:6]], prior=6.0)[0]) < 1e-9


def test_only_mixed_bn_reads_the_prior():
    method, x = trained(), plate(0)
    for name in TTA:
        a, b = (make_adapter(EvalConfig(tta=name, tta_prior=M))(method, [x])[0] for M in (1.0, 100.0))
        assert torch.equal(a, b) == (name != "mixed_bn")


def test_controls_alone_give_the_statistics_whatever_the_batches_are():
    method, controls, others = trained(), plate(0, N=4), plate(1, N=9, scale=3.0)
    with torch.no_grad():
        wanted = with_statistics_of(method, controls).predict(torch.cat([controls, others]))
    for passes in ([controls, others], [controls, others[:2], others[2:3], others[3:]]):
        found = torch.cat(first_pass_statistics(method, passes))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-11)


def test_dropout_stays_off():
    method = trained()
    method.net.stages["res3"] = nn.Sequential(*method.net.stages["res3"], nn.Dropout(0.5)).eval()
    assert torch.equal(own_statistics(method, [plate(0)])[0], own_statistics(method, [plate(0)])[0])


def test_passes_are_drawn_one_at_a_time():
    """What has been predicted is let go of before the next pass is made."""
    method, alive = trained(), []

    def passes():
        for seed in range(3):
            alive.append(seed)
            yield plate(seed)

    seen = []
    method.head.register_forward_hook(lambda *_: seen.append(len(alive)))
    own_statistics(method, passes())
    assert seen == [1, 2, 3]


def test_a_method_without_batch_norm_is_refused():
    method = make_method("ERM")
    method.net = nn.Identity()
    assert isinstance(method, Method)
    check_adaptable(method, EvalConfig())
    for name in ("plate_bn", "unmix_tns", "tent", "sar"):
        with pytest.raises(InputError, match=rf"--tta {name} .*ERM.* lame or label_shift"):
            check_adaptable(method, EvalConfig(tta=name))
    for name in ("lame", "label_shift"):
        check_adaptable(method, EvalConfig(tta=name))
