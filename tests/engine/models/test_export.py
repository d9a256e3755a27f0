"""Exported graphs: logits as the package's own in three modes, in a program that has nothing of it."""

import json
import re
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

from abra_wilds import load_model, run_config
from abra_wilds.__main__ import main
from abra_wilds.engine.models.graph import GRAPH_TTA, export_model
from abra_wilds.engine.models.model import Model
from abra_wilds.engine.models.stored import Stored, predicting
from abra_wilds.engine.setup import build_method
from abra_wilds.errors import InputError
from abra_wilds.methods import METHODS
from abra_wilds.types import DataInfo
from tests import runs

ENDING = {"onnx": ".onnx", "torch": ".pt2"}
# A program without this package, in which torch unpickles nothing but tensors and numbers.
ELSEWHERE = """
import pickle, sys
sys.modules["abra_wilds"] = None
import numpy as np, torch
def refused(*args, **kwargs): raise SystemExit("something is unpickled")
inner = torch.load
torch.load = lambda f, **more: inner(f, **more) if more.get("weights_only") is True else refused()
pickle.load = pickle.loads = refused
more = {"abra_wilds.json": ""}
graph = torch.export.load(sys.argv[1], extra_files=more).module()
arrays = np.load(sys.argv[2])
logits = graph(*(torch.from_numpy(arrays[name]) for name in ("images", "controls") if name in arrays))
np.savez(sys.argv[3], logits=logits.numpy(), about=more["abra_wilds.json"])
"""


@pytest.fixture(scope="module")
def model(tiny, trained):
    return load_model(trained / "model", "cpu")


def by_runtime(path, inputs):
    """Logits of ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def by_torch(path, inputs):
    """Logits of torch.export's program."""
    return torch.export.load(path).module()(*map(torch.from_numpy, inputs.values())).numpy()


ANSWERS = {"onnx": by_runtime, "torch": by_torch}


def inputs_of(tta, images, known):
    """What a graph takes: raw images as float32, and controls where it asks for them."""
    raw = images.numpy().astype(np.float32)
    return {"images": raw} | ({"controls": raw[known.numpy() >= 0]} if tta == "controls_bn" else {})


def wanted(model, tta, images, known):
    """The package's own logits."""
    return model.predict(images, tta="none" if tta == "none" else f"{tta},min=2", known=known).numpy()


def assert_same(model, kind, tta, images, known, folder):
    """Logits of a graph of the model equal its own to 1e-4, for other numbers and orders of images too."""
    path = export_model(model, folder / f"{tta}{ENDING[kind]}", kind, tta)
    found = ANSWERS[kind](path, inputs_of(tta, images, known))
    ours = wanted(model, tta, images, known)
    most = 1e-4 * max(1, abs(ours).max())  # where random weights give large logits, of the largest
    np.testing.assert_allclose(found, ours, rtol=0, atol=most)
    order = torch.arange(len(images) - 1, -1, -1)[: -len(images) // 3]  # a part, from the end
    if tta == "controls_bn":  # whose statistics are those of the same controls
        inputs = {**inputs_of(tta, images, known), "images": images[order].numpy().astype(np.float32)}
        again, expected = ANSWERS[kind](path, inputs), found[order]
    else:
        again = ANSWERS[kind](path, inputs_of(tta, images[order], known[order]))
        expected = wanted(model, tta, images[order], known[order])
    np.testing.assert_allclose(again, expected, rtol=0, atol=most)


@pytest.mark.parametrize("kind", ENDING)
@pytest.mark.parametrize("tta", GRAPH_TTA)
def test_logits_equal_ours_in_every_format_and_mode(model, plate, tmp_path, kind, tta):
    before = {k: v.clone() for k, v in model.method.state_dict().items() if isinstance(v, torch.Tensor)}
    assert_same(model, kind, tta, *plate, tmp_path)
    assert all(torch.equal(model.method.state_dict()[k], v) for k, v in before.items())
    assert all(p.requires_grad for p in model.method.parameters())


def test_modes_differ(model, plate):
    answers = [wanted(model, tta, *plate) for tta in GRAPH_TTA]
    assert min(abs(a - b).max() for a, b in [answers[:2], answers[1:], answers[::2]]) > 1e-2


def test_a_plate_of_other_depth_gives_the_same_logits(model, plate, tmp_path):
    images, _ = plate
    path = export_model(model, tmp_path / "x.onnx", "onnx", "plate_bn")
    raw = images.numpy().astype(np.float32)
    np.testing.assert_allclose(
        by_runtime(path, {"images": 257 * raw}), by_runtime(path, {"images": raw}), rtol=0, atol=1e-4
    )


def test_the_archive_of_torch_needs_neither_the_package_nor_pickles(model, plate, trained, tmp_path):
    path = tmp_path / "x.pt2"
    assert main(["export", str(trained), "--format", "torch", "--tta", "controls_bn", str(path)]) == 0
    np.savez(tmp_path / "in.npz", **inputs_of("controls_bn", *plate))
    words = [path, tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *map(str, words)], check=True, cwd=tmp_path)
    out = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(out["logits"], wanted(model, "controls_bn", *plate), rtol=0, atol=1e-4)
    assert json.loads(str(out["about"]))["classes"] == model.classes


def test_onnx_says_what_goes_in_and_what_comes_out(model, trained, tmp_path, capsys):
    path = tmp_path / "new" / "x.onnx"
    words = ["export", str(trained / "model"), str(path), "--tta", "controls_bn", "--image_size", "40", "48"]
    assert main(words) == 0 and capsys.readouterr().out == f"{path}\n"
    session = onnxruntime.InferenceSession(str(path))
    sides = ["controls", 3, 40, 48]
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("images", ["images", *sides[1:]]),
        ("controls", sides),
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["images", 9])]
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert about["classes"] == model.classes and about["channels"] == model.channels
    assert (about["tta"], about["image_size"], about["controls"]) == ("controls_bn", [40, 48], "all")
    assert about["bio_batch_fields"] == ["experiment", "plate"] and about["algorithm"] == "ABRA"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.onnx", "--tta", "eb_bn"], "--tta eb_bn .* graph can; give --tta none, plate_bn or controls_bn"),
        (["x.onnx", "--tta", "tent"], "--tta tent"),
        (["x.pt2"], "OUT must end in .onnx for --format onnx; got x.pt2"),
        (["there.onnx"], "there.onnx exists and is not overwritten"),
        (["x.onnx", "--image_size", "16"], "--image_size must be one side or two of 32 or more"),
        (["there.onnx/x.onnx"], "cannot be written"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(tiny, trained, tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").touch()
    assert re.search(said, runs.sentence(capsys, main, ["export", str(trained / "model"), *words]))
    assert runs.names_in(tmp_path) == {"there.onnx"}


def test_without_onnx_the_other_format_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install 'abra-wilds\[export\]'.*--format torch"):
        export_model(model, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def untrained(algorithm="ERM", side=64, channels=4, **flags):
    """A model whose weights and statistics are random."""
    config = run_config(algorithm, pretrained=False, **flags)
    method = build_method(config, DataInfo(5, channels, 1, (0,)), load=False)
    for m in method.modules():
        if getattr(m, "running_mean", None) is not None:
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 2)
    names = [f"channel {k}" for k in range(channels)]
    data = {"classes": list("abcde"), "channels": names, "image_size": [side, side], "digest": None}
    data["bio_batch_fields"] = ["plate"]
    about = {"data": data, "checkpoint": {"name": "random"}}
    return Model(Stored(config, about, predicting(method)), "cpu")


def noise(channels, side):
    """A plate of raw images of 12 bits, and class ids of its eight controls."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 4096, (17, channels, side, side)).astype(np.float32))
    return images, torch.where(torch.arange(17) < 8, 0, -1)


def test_colours_of_imagenet_are_scaled_inside_the_graph(tiny, tmp_path):
    model = untrained(side=32, channels=3, model="resnet18", transform="imagenet")
    images, known = noise(3, 32)
    assert_same(model, "torch", "none", images / 16, known, tmp_path)


def test_images_are_resized_inside_the_graph(tiny, tmp_path):
    model = untrained(side=50, model="resnet18", target_resolution=[32])
    assert_same(model, "onnx", "plate_bn", *noise(4, 50), tmp_path)


def test_a_model_without_batch_norm_has_nothing_to_adapt(tiny, tmp_path):
    model = untrained(model="vit_small", side=32)
    with pytest.raises(InputError, match="--tta plate_bn changes batch norms"):
        export_model(model, tmp_path / "x.onnx", "onnx", "plate_bn")


def test_a_run_that_does_not_say_how_large_its_images_were_needs_the_flag(tiny, tmp_path):
    model = untrained(model="resnet18")
    model.about = {**model.about, "data": {**model.about["data"], "image_size": []}}
    with pytest.raises(InputError, match="give --image_size"):
        export_model(model, tmp_path / "x.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDING)
@pytest.mark.parametrize(
    ("name", "side"),
    [("resnet18", 64), ("resnet50", 128), ("densenet161", 64), ("vit_small", 64), ("timm:convnext_atto", 64)],
)
def test_every_backbone_gives_our_logits(name, side, kind, tmp_path):
    model = untrained(model=name, side=side)
    convolutional = any(hasattr(m, "running_mean") for m in model.method.modules())
    for tta in GRAPH_TTA if convolutional else ("none",):
        assert_same(model, kind, tta, *noise(4, side), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", METHODS)
def test_every_method_gives_our_logits(tiny, algorithm, tmp_path):
    own = {k: v for k, v in runs.OWN.get(algorithm, {}).items() if k.split("_")[0] not in ("n", "batch")}
    model = untrained(algorithm, side=32, **{"model": "resnet18", **own})
    adapts = any(hasattr(m, "running_mean") for m in model.method.modules())
    for tta in GRAPH_TTA if adapts else ("none",):
        assert_same(model, "onnx", tta, *noise(4, 32), tmp_path)
