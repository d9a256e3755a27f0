"""Staged networks: leaving early, entering late, taps, and batch-norm buffers; the backbones by name."""

import copy

import pytest
import torch
from torch import nn

from abra_wilds.nets.backbones import build_net, torchvision_models
from abra_wilds.nets.staged import STAGES, StagedNet, bn_buffers_kept, without_last_relu
from abra_wilds.types import InputError
from tests.helpers import make_batch, tiny_net, worst

X = make_batch().x.float()


def buffers(net):
    return {name: b.clone() for name, b in net.named_buffers()}


def bitwise(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_middle_piece_runs_the_stages_between_only():
    net = tiny_net().eval()
    part = net(X, upto="res1")
    assert torch.equal(net(part, after="res1", upto="res3"), net.stages["res3"](net.stages["res2"](part)))
    assert net(part, after="res1", upto="res1") is part


def test_taps_see_and_replace_the_output_of_their_stage_in_order():
    net, seen = tiny_net().eval(), []

    def tap(name, factor):
        def look(x):
            seen.append((name, x))
            return factor * x

        return look

    out = net(X, taps={"res3": tap("res3", 2), "stem": tap("stem", 3)})
    assert [name for name, _ in seen] == ["stem", "res3"]
    stem = net.stages["stem"](X)
    assert torch.equal(seen[0][1], stem)
    res3 = net(3 * stem, after="stem", upto="res3")
    assert torch.equal(seen[1][1], res3)
    assert torch.equal(out, net.stages["res4"](2 * res3))


def test_taps_outside_the_piece_that_runs_stay_silent():
    net = tiny_net().eval()

    def never(x):
        raise AssertionError

    net(net(X, upto="res2", taps={"res3": never}), after="res2", taps={"stem": never, "res2": never})


@pytest.mark.parametrize("names", [STAGES[::-1], STAGES[:4], (*STAGES[:4], "layer4")])
def test_other_stages_are_refused(names):
    stages, channels = {n: nn.Identity() for n in names}, dict.fromkeys(names, 3)
    with pytest.raises(ValueError, match=r"'stem', 'res1', 'res2', 'res3', 'res4'"):
        StagedNet(stages, channels)


def test_an_unknown_stage_to_enter_or_leave_is_an_error():
    for where in ({"after": "layer4"}, {"upto": "layer4"}):
        with pytest.raises(ValueError):
            tiny_net()(X, **where)


def test_kept_batch_norms_normalise_by_the_batch_and_keep_buffers_and_counters_bitwise():
    net, twin = (tiny_net().train() for _ in range(2))
    before = buffers(net)
    with bn_buffers_kept(net):
        kept = net(X)
    assert bitwise(before, buffers(net))
    assert torch.equal(kept, twin(X))
    assert not bitwise(before, buffers(twin))


def test_tracking_is_back_after_the_context_also_after_an_exception():
    net, twin = (tiny_net().train() for _ in range(2))
    with pytest.raises(KeyError), bn_buffers_kept(net):
        net(X)
        raise KeyError
    assert all(m.track_running_stats for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    net(X)
    twin(X)
    assert bitwise(buffers(net), buffers(twin))


def test_contexts_nest_and_leave_batch_norms_that_never_tracked_alone():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    with bn_buffers_kept(net):
        with bn_buffers_kept(net):
            net(X)
        net(X)
        assert net[0].num_batches_tracked.item() == 0
    assert [m.track_running_stats for m in net] == [True, False]


def test_in_evaluation_kept_batch_norms_use_their_running_statistics():
    net = tiny_net().train()
    net(X)
    net.eval()
    with bn_buffers_kept(net):
        kept = net(X)
    assert torch.equal(kept, net(X))


def test_a_backward_pass_that_is_due_survives_the_context():
    net = tiny_net().train()
    out = net(X)
    with bn_buffers_kept(net):
        other = net(X * 2)
    (out.sum() + other.sum()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_features_are_torchvisions_own_for_the_same_weights(name):
    net = build_net(name, 3, pretrained=False)
    whole = torchvision_models().get_model(name, weights=None)
    parts = {"conv1": net.stages["stem"][0], "bn1": net.stages["stem"][1]}
    parts |= {f"layer{k}": net.stages[f"res{k}"] for k in range(1, 5)}
    for part, module in parts.items():
        getattr(whole, part).load_state_dict(copy.deepcopy(module.state_dict()))
    whole.fc = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert worst(net.eval()(x).mean((2, 3)), whole.eval()(x)) < 1e-6
        assert (net(x) >= 0).all()


def test_a_new_stem_is_made_only_where_it_is_needed():
    torch.manual_seed(0)
    kept = build_net("resnet18", 3, pretrained=False)
    torch.manual_seed(0)
    replaced = build_net("resnet18", 3, pretrained=False, new_stem=True)
    a, b = dict(kept.named_parameters()), dict(replaced.named_parameters())
    assert [n for n in a if not torch.equal(a[n], b[n])] == ["stages.stem.0.weight"]


def test_an_unknown_model_is_refused_with_the_known_names():
    with pytest.raises(InputError, match=r"'resnet19'.*resnet18"):
        build_net("resnet19", 3, pretrained=False)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_stage_without_its_last_relu_becomes_the_stage_by_that_relu(name):
    net = build_net(name, 3, pretrained=False).eval()
    x = net(torch.randn(2, 3, 64, 64), upto="stem")
    for stage in STAGES[1:]:
        bare, x = without_last_relu(net.stages[stage], x), net.stages[stage](x)
        assert torch.equal(bare.relu(), x) and (bare < 0).any()


@pytest.mark.parametrize("stage", [nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1))])
def test_a_stage_that_does_not_end_in_a_relu_has_nothing_to_stand_before(stage):
    with pytest.raises(InputError, match="shift after it"):
        without_last_relu(stage, torch.randn(1, 3, 4, 4))


def test_pretrained_weights_are_those_of_wilds(monkeypatch):
    asked = []

    def get_model(name, weights):
        asked.append((name, weights))
        return torchvision_models().resnet18()

    monkeypatch.setattr(torchvision_models(), "get_model", get_model)
    build_net("resnet50", 3, pretrained=True)
    build_net("resnet50", 3, pretrained=False)
    assert asked == [("resnet50", "IMAGENET1K_V1"), ("resnet50", None)]
