"""First weights from files: of runs here and of WILDS, of torchvision and timm, under any prefix."""

import re
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from abra_wilds import run_config
from abra_wilds.commands.train import main
from abra_wilds.compat.imports import torchvision_importable
from abra_wilds.engine.artifacts.checkpoint import Progress, save_checkpoint
from abra_wilds.engine.artifacts.weights import load_backbone, load_head
from abra_wilds.engine.setup import build_method
from abra_wilds.methods.domains.irm import IRMConfig
from abra_wilds.methods.erm import ERM
from abra_wilds.nets.backbones import build_net, timm_package
from abra_wilds.types import InputError
from tests import runs
from tests.helpers import make_info, make_method
from tests.runs import differences

torchvision_importable()
import torchvision  # noqa: E402

timm = timm_package()
CLASSES = 5


def load_weights(path, method, featurizer_only):
    """The backbone, and the classifier unless it is left out."""
    found, _ = load_backbone(path, method.net)
    if not featurizer_only:
        load_head(path, found, method)


def other_head(seed=3):
    """A method with another number of classes."""
    return make_method("ERM", seed=seed, info=make_info(n_classes=8))


def test_load_weights_takes_backbone_and_classifier_of_any_method(tmp_path):
    given, wanting = make_method("IRM", IRMConfig(), seed=5), make_method("ABRA")
    save_checkpoint(tmp_path / "c.pth", given, Progress(7))
    K = {name: b.clone() for name, b in wanting.named_buffers() if name.startswith("perturb")}
    load_weights(tmp_path / "c.pth", wanting, featurizer_only=False)
    for name, value in given.state_dict().items():
        if name.startswith(("net.", "head.")):
            assert torch.equal(wanting.state_dict()[name], value)
    assert all(torch.equal(dict(wanting.named_buffers())[name], b) for name, b in K.items())


def test_load_weights_leaves_the_classifier_where_asked(tmp_path):
    given, wanting = make_method("ERM", seed=5), other_head()
    save_checkpoint(tmp_path / "c.pth", given, Progress())
    head = wanting.head.weight.detach().clone()
    load_weights(tmp_path / "c.pth", wanting, featurizer_only=True)
    assert torch.equal(wanting.head.weight, head)
    assert differences(dict(given.net.state_dict()), dict(wanting.net.state_dict())) == []


def test_load_weights_reads_bare_state_dicts(tmp_path):
    given, wanting = make_method("ERM", seed=5), make_method("ERM")
    torch.save(given.state_dict(), tmp_path / "c.pth")
    load_weights(tmp_path / "c.pth", wanting, featurizer_only=False)
    assert differences(dict(given.state_dict()), dict(wanting.state_dict())) == []


def test_load_weights_names_a_classifier_that_does_not_fit(tmp_path):
    save_checkpoint(tmp_path / "c.pth", make_method("ERM"), Progress())
    with pytest.raises(InputError, match=r"classifier .*--load_featurizer_only"):
        load_weights(tmp_path / "c.pth", other_head(), featurizer_only=False)


def test_load_weights_names_the_first_missing_weight(tmp_path):
    torch.save({"head.weight": torch.zeros(1)}, tmp_path / "c.pth")
    with pytest.raises(InputError, match=r"\d+ weights .* net\.\S+.*--model"):
        load_weights(tmp_path / "c.pth", make_method("ERM"), featurizer_only=False)


def published(name):
    """A network of its publisher's with random weights and statistics, and what ours is called."""
    torch.manual_seed(1)
    if name.startswith("timm:"):
        net = timm.create_model(name.removeprefix("timm:"), num_classes=CLASSES)
    else:
        net = torchvision.models.get_model(name, weights=None, num_classes=CLASSES)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    return net.eval()


def ours(name, in_channels=3):
    """ERM on our own network of the name."""
    torch.manual_seed(2)
    net = build_net(name, in_channels, pretrained=False)
    return ERM(net, make_info(n_classes=CLASSES, in_channels=in_channels), ERM.Config()).eval()


NAMES = ("resnet18", "resnet50", "densenet161", "timm:test_vit", "timm:test_convnext", "timm:resnet18")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_file_of_every_kind_of_backbone_predicts_as_its_own_network(tmp_path, name, prefix):
    theirs, mine = published(name), ours(name)
    torch.save({prefix + key: weight for key, weight in theirs.state_dict().items()}, tmp_path / "w.pth")
    load_weights(tmp_path / "w.pth", mine, featurizer_only=False)
    assert torch.equal(mine.head.bias, classifier(theirs).bias)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        if name.startswith("timm:"):  # which may pool and normalise otherwise after its features
            maps = theirs.forward_features(x)
            assert torch.allclose(mine.net(x), maps.mT[..., None] if maps.ndim == 3 else maps, atol=1e-5)
        else:
            assert torch.allclose(mine.predict(x), theirs(x), atol=1e-5)


def classifier(net):
    """The last layer of a publisher's network."""
    return [module for module in net.modules() if isinstance(module, nn.Linear)][-1]


def as_wilds_saves(net, way):
    """A WILDS checkpoint of a torchvision ResNet: by one network, or by featurizer and classifier."""
    state = net.state_dict()
    featurizer = {k: v for k, v in state.items() if not k.startswith("fc.")}
    head = {k.removeprefix("fc."): v for k, v in state.items() if k.startswith("fc.")}
    if way == "ERM":
        weights = {f"model.{k}": v for k, v in state.items()}
    elif way == "parallel":
        weights = {f"model.module.{k}": v for k, v in state.items()}
    else:
        names = {"deepCORAL": ("model.0.", "model.1."), "DANN": ("model.featurizer.", "model.classifier.")}
        pairs = (names[way], ("featurizer.", "classifier."))
        weights = {a + k: v for a, _ in pairs for k, v in featurizer.items()}
        weights |= {b + k: v for _, b in pairs for k, v in head.items()}
        weights["model.domain_classifier.layers.0.weight"] = torch.ones(1)
    return {"algorithm": weights, "epoch": 3, "best_val_metric": 0.5}


@pytest.mark.parametrize("way", ["ERM", "parallel", "deepCORAL", "DANN"])
def test_a_checkpoint_of_wilds_predicts_as_the_network_in_it(tmp_path, way):
    theirs, mine = published("resnet18"), ours("resnet18")
    torch.save(as_wilds_saves(theirs, way), tmp_path / "w.pth")
    load_weights(tmp_path / "w.pth", mine, featurizer_only=False)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(mine.predict(x), theirs(x), atol=1e-5)


def test_a_run_wrapped_by_ddp_and_a_teacher_beside_it_are_told_apart(tmp_path):
    given, wanting = make_method("BYOL", seed=5), make_method("ERM")
    nn.init.zeros_(next(given.teacher_net.parameters()))
    torch.save({"state_dict": {f"module.{k}": v for k, v in given.state_dict().items()}}, tmp_path / "c.pth")
    load_weights(tmp_path / "c.pth", wanting, featurizer_only=False)
    assert differences(dict(given.net.state_dict()), dict(wanting.net.state_dict())) == []
    assert torch.equal(wanting.head.weight, given.head.weight)


def test_densenets_are_read_under_their_old_names_and_old_files_without_counters(tmp_path):
    theirs, mine = published("densenet161"), ours("densenet161")
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", k): v
        for k, v in theirs.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    load_weights(tmp_path / "w.pth", mine, featurizer_only=False)
    last = theirs.features.denseblock4.denselayer24
    assert torch.equal(mine.net.stages["res4"][0].denselayer24.conv2.weight, last.conv2.weight)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_timm_are_spread_over_six_channels_and_those_of_torchvision_leave_a_fresh_stem(
    tmp_path, suffix
):
    path = tmp_path / f"w{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    theirs, mine = published("timm:resnet18"), ours("timm:resnet18", 6)
    save(theirs.state_dict(), path)
    _, fresh = load_backbone(path, mine.net, timm=True)
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():  # six equal channels are as three of half the size each, which timm makes up for
        a, b = (net(grey.expand(-1, C, -1, -1)) for net, C in ((mine.net, 6), (theirs.forward_features, 3)))
    assert not fresh and torch.allclose(a, b, atol=1e-4)
    theirs, mine = published("resnet18"), ours("resnet18", 6)
    stem = mine.net.stages["stem"][0].weight.clone()
    save(theirs.state_dict(), path)
    assert load_backbone(path, mine.net)[1] and torch.equal(mine.net.stages["stem"][0].weight, stem)
    assert torch.equal(mine.net.stages["res1"][0].conv1.weight, theirs.layer1[0].conv1.weight)


def test_a_new_stem_is_new_whatever_the_file_has(tmp_path):
    theirs, mine = published("resnet18"), ours("resnet18")
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    stem = mine.net.stages["stem"][0].weight.clone()
    assert load_backbone(tmp_path / "w.pth", mine.net, new_stem=True)[1]
    assert torch.equal(mine.net.stages["stem"][0].weight, stem)


@pytest.mark.parametrize("classes", [0, 1000])
def test_a_file_without_a_fitting_classifier_says_which_flag_leaves_it_out(tmp_path, classes):
    net = torchvision.models.resnet18(num_classes=classes or 1)
    state = {k: v for k, v in net.state_dict().items() if classes or not k.startswith("fc.")}
    torch.save(state, tmp_path / "w.pth")
    mine = ours("resnet18")
    with pytest.raises(InputError, match=r"w\.pth .*classifier .*--load_featurizer_only"):
        load_weights(tmp_path / "w.pth", mine, featurizer_only=False)
    load_weights(tmp_path / "w.pth", mine, featurizer_only=True)
    assert torch.equal(mine.net.stages["res4"][1].conv2.weight, net.layer4[1].conv2.weight)


@pytest.mark.parametrize("name", ["resnet50", "densenet161"])
def test_a_file_of_another_model_is_refused(tmp_path, name):
    torch.save(published(name).state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth .*--model"):
        load_backbone(tmp_path / "w.pth", ours("resnet18").net)


def test_a_teacher_starts_from_the_weights_of_the_file_too(tmp_path):
    torch.save(published("resnet18").state_dict(), tmp_path / "w.pth")
    flags = {"pretrained_model_path": str(tmp_path / "w.pth"), "load_featurizer_only": True}
    method = build_method(run_config("BYOL", model="resnet18", warmup_epochs=0, **flags), make_info())
    assert differences(dict(method.net.state_dict()), dict(method.teacher_net.state_dict())) == []


def test_without_epochs_a_stem_that_would_stay_random_is_refused_from_a_file_too(tmp_path):
    torch.save(published("resnet18").state_dict(), tmp_path / "w.pth")
    flags = {"pretrained_model_path": str(tmp_path / "w.pth"), "load_featurizer_only": True}
    config = run_config("SimCLR", model="resnet18", n_epochs=0, warmup_epochs=0, new_stem=False, **flags)
    assert build_method(config, make_info(in_channels=3)) is not None
    with pytest.raises(InputError, match=r"--n_epochs 0 .*6 channels"):
        build_method(config, make_info(in_channels=6))


def test_the_file_that_a_failed_download_names_starts_the_run_as_it_advises(
    root, tmp_path, monkeypatch, capsys
):
    """Weights go where the sentence says, and the flags it names are added."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    argv = runs.command(root, tmp_path / "run", "ERM", pretrained=None, n_epochs=1, target_resolution=[32])
    said = runs.sentence(capsys, main, argv)
    (name,) = re.findall(r"from \S+/(\S+\.pth)", said)
    assert name == "resnet18-f37072fd.pth"
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / name)
    (flag,) = re.findall(r"by (--\w+ FILE --\w+)", said)
    assert main([*argv, *flag.replace("FILE", str(tmp_path / name)).split()]) == 0
    assert "the weights of" in (tmp_path / "run" / "results.jsonl").read_text()


def offline(*args, **kwargs):
    raise URLError("Temporary failure in name resolution")
