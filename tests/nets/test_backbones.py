"""DenseNet-161 and timm's networks: shapes, torchvision's and timm's own features, and every refusal."""

import copy
import re
import sys

import pytest
import torch
from torch import nn

from abra_wilds.config.model import MODELS, ModelConfig
from abra_wilds.functional.stats import restyle
from abra_wilds.nets import backbones
from abra_wilds.nets.backbones import BACKBONES, build_net, torchvision_models
from abra_wilds.nets.staged import STAGES, without_last_relu
from abra_wilds.types import InputError
from tests.helpers import worst

timm = backbones.timm_package()
# name -> (channels, sides of square maps at 64 pixels, or numbers of tokens)
SHAPES = {
    "resnet18": ([64, 64, 128, 256, 512], [(s, s) for s in (16, 16, 8, 4, 2)]),
    "resnet50": ([64, 256, 512, 1024, 2048], [(s, s) for s in (16, 16, 8, 4, 2)]),
    "densenet161": ([96, 192, 384, 1056, 2208], [(s, s) for s in (16, 8, 4, 2, 2)]),
    "vit_small": ([384] * 5, [(17, 1)] * 5),
    "timm:resnet18": ([64, 64, 128, 256, 512], [(s, s) for s in (16, 16, 8, 4, 2)]),
    "timm:test_convnext": ([24, 24, 32, 48, 64], [(s, s) for s in (16, 16, 8, 4, 2)]),
    "timm:test_vit": ([64] * 5, [(17, 1)] * 5),
}


@pytest.fixture(scope="module", params=SHAPES)
def named(request):
    torch.manual_seed(0)
    return request.param, build_net(request.param, 3, pretrained=False).eval()


@pytest.fixture(scope="module")
def densenet():
    torch.manual_seed(0)
    return build_net("densenet161", 3, pretrained=False)


def image(in_channels=3, n=2, side=64):
    return torch.randn(n, in_channels, side, side, generator=torch.Generator().manual_seed(1))


def test_the_configuration_takes_the_names_there_are_and_any_of_timms():
    assert (*BACKBONES, "timm:NAME") == MODELS
    for name in (*BACKBONES, "timm:convnext_tiny"):
        assert ModelConfig(model=name).model == name
    for name in ("vgg", "timm", "convnext_tiny"):
        with pytest.raises(InputError, match=f"resnet18, resnet50, .*timm:NAME.*'{name}'"):
            ModelConfig(model=name)


def test_prefix_and_suffix_make_the_whole_bitwise_at_every_stage(named):
    name, net = named
    channels, sizes = SHAPES[name]
    with torch.no_grad():
        whole = net(image())
        for stage, C, size in zip(STAGES, channels, sizes, strict=True):
            part = net(image(), upto=stage)
            assert part.shape == (2, C, *size) and net.channels[stage] == C
            assert torch.equal(net(part, after=stage), whole)
    assert net.d_feat == channels[-1]


@pytest.mark.parametrize("name", SHAPES)
def test_six_channels_and_no_storage_give_the_same_shapes(name):
    channels, sizes = SHAPES[name]
    with torch.device("meta"):
        net = build_net(name, 6, pretrained=False)
        x = torch.empty(2, 6, 64, 64)
    for stage, C, size in zip(STAGES, channels, sizes, strict=True):
        assert net(x, upto=stage).shape == (2, C, *size)
    assert all(p.is_meta for p in net.parameters())


def test_six_channels_change_the_first_convolution_alone_and_run():
    for name in ("densenet161", "timm:test_convnext", "timm:test_vit"):
        three, six = (build_net(name, C, pretrained=False).eval() for C in (3, 6))
        a, b = ({n: p.shape for n, p in net.named_parameters()} for net in (three, six))
        changed = [n for n in a if a[n] != b[n]]
        assert a.keys() == b.keys() and len(changed) == 1
        assert b[changed[0]] == (a[changed[0]][0], 6, *a[changed[0]][2:])
        with torch.no_grad():
            assert six(image(6)).isfinite().all()


def test_densenets_res4_is_torchvisions_features_after_the_final_relu(densenet):
    whole = torchvision_models().densenet161(weights=None)
    f = whole.features
    parts = [f.conv0, f.norm0, f.denseblock1, f.transition1, f.denseblock2, f.transition2]
    parts += [f.denseblock3, f.transition3, f.denseblock4, f.norm5]
    s = densenet.stages
    ours = [s.stem[0], s.stem[1], *s.res1, *s.res2, *s.res3, *s.res4[:2]]
    for theirs, own in zip(parts, ours, strict=True):
        theirs.load_state_dict(copy.deepcopy(own.state_dict()))
    net, whole = copy.deepcopy(densenet).eval(), whole.eval()
    with torch.no_grad():
        features = f(image())
        assert (features < 0).any()
        assert torch.equal(net(image()), features.relu())
        assert torch.equal(net(image(), bare=True), features)
        assert worst(whole.classifier(net(image()).mean((2, 3))), whole(image())) < 1e-6


def test_T9_a_shift_of_channel_means_acts_after_the_final_relu_and_is_undone_before_norm5(densenet):
    """Before every batch norm of DenseNet a shift of the deviation is undone as well."""
    net = copy.deepcopy(densenet).double().train()
    block, norm5, relu = net.stages.res4
    x = image(side=96).double()

    def shifted(X):
        d = [torch.linspace(-1, 1, X.shape[1], dtype=X.dtype)] * 2
        moments = X.mean((0, 2, 3)), X.var((0, 2, 3), correction=0).sqrt() + 1
        return restyle(X, *moments, *(0.3 * k for k in d))

    with torch.no_grad():
        at = {stage: net(x, upto=stage) for stage in ("res3", "res4")}
        clean = at["res4"].mean((2, 3))
        before_norm5 = relu(norm5(shifted(block(at["res3"]))))
        after_res3 = net(shifted(at["res3"]), after="res3")
        assert (shifted(at["res4"]).mean((2, 3)) - clean).abs().mean() > 0.1
        assert worst(before_norm5.mean((2, 3)), clean) < 1e-3
        assert worst(after_res3.mean((2, 3)), clean) < 1e-3


@pytest.mark.parametrize("name, outputs", [("resnet18", 64), ("resnet50", 64), ("densenet161", 96)])
def test_a_new_stem_has_the_outputs_of_the_old_one_and_no_bias(name, outputs):
    with torch.device("meta"):
        conv = build_net(name, 6, pretrained=False).stages["stem"][0]
    assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (6, outputs, (7, 7))
    assert (conv.stride, conv.padding, conv.bias) == ((2, 2), (3, 3), None)


def test_densenets_pretrained_weights_are_torchvisions_first():
    asked = []

    def get_model(name, weights):
        asked.append((name, weights))
        raise OSError("no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision_models(), "get_model", get_model)
        with pytest.raises(InputError, match=r"densenet161 .*\(no network\)"):
            build_net("densenet161", 3, pretrained=True)
    assert asked == [("densenet161", "IMAGENET1K_V1")]


def test_timms_resnet_is_torchvisions_for_the_same_weights():
    net = build_net("timm:resnet18", 3, pretrained=False)
    twin = build_net("resnet18", 3, pretrained=False)
    twin.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(net.eval()(image()), twin.eval()(image()))


@pytest.mark.parametrize("name", ["resnet10t", "test_convnext", "test_resnet", "nf_resnet26"])
def test_timms_networks_end_where_its_forward_features_ends_and_are_in_train_mode(name):
    torch.manual_seed(0)
    whole = timm.create_model(name, num_classes=0).eval()
    torch.manual_seed(0)
    net = build_net(f"timm:{name}", 3, pretrained=False)
    assert all(m.training for m in net.modules())
    with torch.no_grad():
        assert torch.equal(net.eval()(image()), whole.forward_features(image()))


@pytest.mark.parametrize("name", ["timm:test_convnext", "timm:test_vit", "timm:resnet10t"])
def test_a_new_stem_of_timms_is_other_random_weights_in_the_first_convolution_alone(name):
    torch.manual_seed(0)
    kept = build_net(name, 6, pretrained=False)
    torch.manual_seed(0)
    replaced = build_net(name, 6, pretrained=False, new_stem=True)
    a, b = dict(kept.named_parameters()), dict(replaced.named_parameters())
    changed = [n for n in a if not torch.equal(a[n], b[n])]
    assert {a[n].shape[1] for n in changed if a[n].dim() == 4} == {6}
    assert {n.rpartition(".")[0] for n in changed} == {changed[0].rpartition(".")[0]}


def test_without_timm_the_refusal_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in ("vit_small", "timm:resnet26"):
        with pytest.raises(InputError, match=r"\[timm\]"):
            build_net(name, 3, pretrained=False)
    build_net("resnet18", 3, pretrained=False)


def test_an_unknown_name_of_timms_is_refused_with_near_ones():
    near = {
        "vit_smal_patch16_224": "timm:vit_small_patch16_224",
        "resnet18.a9_in1k": "timm:resnet18.a1_in1k",
        "": "timm.list_models()",
    }
    for name, offered in near.items():
        with pytest.raises(InputError, match=f"'{re.escape(name)}'.*{re.escape(offered)}"):
            build_net(f"timm:{name}", 3, pretrained=False)


def test_weights_of_timms_without_a_network_give_one_sentence_that_says_what_to_do(monkeypatch):
    def offline(*args, **kwargs):
        assert (args, kwargs["pretrained"]) == (("vit_small_patch16_224",), True)
        raise OSError("no network\nat all")

    monkeypatch.setattr(timm, "create_model", offline)
    said = r"^[^\n]*vit_small_patch16_224 [^\n]*\(no net[^\n]*timm/vit_small_[^\n]*--pretrained false[^\n]*$"
    with pytest.raises(InputError, match=said):
        build_net("vit_small", 3, pretrained=True)


def test_a_model_for_which_timm_has_no_weights_says_so():
    with pytest.raises(InputError, match="--pretrained false"):
        build_net("timm:skresnet50d", 3, pretrained=True)


# Stages under other names; channels last; attention for images of one size.
@pytest.mark.parametrize("name", ["test_efficientnet", "mambaout_femto", "coatnet_0_224"])
def test_a_network_that_does_not_fall_into_five_stages_is_refused(name):
    with torch.device("meta"), pytest.raises(InputError, match=f"timm's {name}"):
        build_net(f"timm:{name}", 3, pretrained=False)


def test_stages_that_are_not_the_whole_network_are_refused(monkeypatch):
    monkeypatch.setattr(backbones, "TAILS", ())
    with pytest.raises(InputError, match="nf_resnet26"):
        build_net("timm:nf_resnet26", 3, pretrained=False)


def test_only_where_a_stage_ends_in_a_known_relu_can_one_stand_before_it(densenet):
    x = torch.randn(2, 1056, 2, 2)
    with torch.no_grad():
        res4 = copy.deepcopy(densenet.stages.res4).eval()
        assert torch.equal(without_last_relu(res4, x).relu(), res4(x))
    vit = build_net("timm:test_vit", 3, pretrained=False).eval()
    with pytest.raises(InputError, match="shift after it"):
        vit(image(), bare=True)
    with pytest.raises(InputError, match="shift after it"):
        without_last_relu(densenet.stages.res1, torch.randn(2, 96, 4, 4))
    assert isinstance(densenet.stages.res4[-1], nn.ReLU)
