"""Fine-tuning from a model of other channels or classes: by name, what is new from a mean or fresh."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from abra_wilds import fit, run_config
from abra_wilds.engine.artifacts.origins import origin_of, sources, start_lines
from abra_wilds.engine.setup import build_method, prepare
from abra_wilds.errors import InputError
from abra_wilds.types import DataInfo
from tests import runs

BEST = "rxrx1_seed:0_epoch:best_model.pth"
STEM, HEAD = "net.stages.stem.0.weight", "head.weight"


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        runs.use_tiny_backbone(patch)
        fit(run_config("ERM", **runs.settings(root, folder, "ERM", n_epochs=1, warmup_epochs=0)))
    return folder


def info(classes=("0", "1"), channels=("Hoechst", "ConA", "phalloidin")):
    return DataInfo(len(classes), len(channels), 1, (0,), tuple(classes), tuple(channels))


def started(folder, root, wanted, **flags):
    config = run_config("ERM", **runs.settings(root, "unused", "ERM", pretrained=None, **flags))
    return build_method(config, wanted).state_dict()


def fresh(root, wanted):
    return build_method(run_config("ERM", **runs.settings(root, "unused", "ERM")), wanted).state_dict()


@pytest.mark.parametrize(
    "source", ["model", "", "rxrx1_seed:0_epoch:best_model.pth", "model/model.safetensors"]
)
def test_channels_and_classes_go_by_their_names(trained, root, tiny, source):
    weights = load_file(trained / "model" / "model.safetensors")
    names = json.loads((trained / "model" / "config.json").read_text())["data"]["classes"]
    wanted = info(["new", names[7], names[2], "newer"], ["PHALLOIDIN", "AGP", "Hoechst", "ER", "ConA"])
    found = started(trained, root, wanted, pretrained_model_path=str(trained / source))
    own, mean = weights[STEM], weights[STEM].mean(1)
    assert torch.equal(found[STEM], torch.stack([own[:, 2], mean, own[:, 0], mean, own[:, 1]], 1))
    drawn = fresh(root, wanted)[HEAD]
    assert torch.equal(found[HEAD][[1, 2]], weights[HEAD][[7, 2]])
    assert torch.equal(found[HEAD][[0, 3]], drawn[[0, 3]])
    for name in ("net.stages.res4.0.weight", "net.stages.res1.1.running_var"):
        assert torch.equal(found[name], weights[name])


def test_the_same_names_are_taken_over_as_they_are(trained, root, tiny):
    weights, about = (trained / "model" / n for n in ("model.safetensors", "config.json"))
    data = json.loads(about.read_text())["data"]
    wanted = info(data["classes"], data["channels"])
    found = started(trained, root, wanted, pretrained_model_path=str(weights.parent))
    assert all(torch.equal(found[name], w) for name, w in load_file(weights).items() if name in found)


def test_the_classifier_is_fresh_where_no_class_is_shared_or_it_is_left_out(trained, root, tiny):
    path = str(trained / "model")
    for wanted, flags in ((info(["a", "b"]), {}), (info(), {"load_featurizer_only": True})):
        found = started(trained, root, wanted, pretrained_model_path=path, **flags)
        assert torch.equal(found[HEAD], fresh(root, wanted)[HEAD])


def test_one_line_says_what_was_taken(trained, root, tmp_path, tiny):
    config = run_config(
        "ERM", **runs.settings(root, tmp_path, pretrained=None, pretrained_model_path=str(trained))
    )
    (line,) = start_lines(config.model, info(["x"], ["Hoechst", "ER"]))
    assert line == (
        f"starting from {trained / BEST}: channels by name, 1 of 2 known and the mean of its filters for ER; "
        "classes by name, 0 of 1 known and the others fresh"
    )
    assert start_lines(config.model, prepare(config).info) == []


def test_a_run_from_a_folder_of_other_classes_trains(trained, root, tmp_path, tiny, capsys):
    folder = shutil.copytree(trained / "model", tmp_path / "model")
    about = json.loads((folder / "config.json").read_text())
    about["data"]["classes"][0] = "another"
    (folder / "config.json").write_text(json.dumps(about))
    flags = {"n_epochs": 1, "warmup_epochs": 0, "pretrained": None, "pretrained_model_path": str(folder)}
    fit(run_config("ABRA", **runs.settings(root, tmp_path / "run", "ABRA", **flags)))
    assert "classes by name, 8 of 9 known and the others fresh" in (tmp_path / "run" / "log.txt").read_text()


def test_a_folder_without_a_model_and_names_that_do_not_fit_are_refused(trained, root, tmp_path, tiny):
    with pytest.raises(InputError, match="holds no model: neither"):
        origin_of(tmp_path)
    folder = shutil.copytree(trained / "model", tmp_path / "model")
    about = json.loads((folder / "config.json").read_text())
    about["data"]["channels"] += ["one more", "two more"]
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="names 5 channels or more, and they have 3"):
        started(folder, root, info(channels=["two more"]), pretrained_model_path=str(folder))


def test_where_one_side_has_no_names_nothing_is_mapped():
    assert sources((), ("a",)) is None and sources(("a",), ()) is None
    assert sources(("b", "a"), ("a", "b")) == [1, 0] and sources(("a",), ("a", "b")) == [0]
