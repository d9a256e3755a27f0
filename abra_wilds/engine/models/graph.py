"""A model as one file that other programs run: raw images of a plate in, logits out, adaptation inside.

The graph is traced through the adapter that predicts here, so that there is one definition of each.

Letters: N images, M controls, C channels, H W of an image, O classes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from abra_wilds.config.data import DataConfig
from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.data.augment.transforms import augment
from abra_wilds.engine.models.model import Model
from abra_wilds.errors import InputError
from abra_wilds.methods.base import Method
from abra_wilds.results.files import atomic_write
from abra_wilds.tta.adapters import ADAPTERS

# Adaptations of one pass over a plate, whose statistics are a function of its images alone.
GRAPH_TTA = ("none", "plate_bn", "controls_bn")
ABOUT = "abra_wilds.json"  # what a .pt2 archive has beside the program
OUTPUT = "logits"


class Graph(nn.Module):
    """Logits (N, O) of raw images of one plate, in their order.

    Args:
        method: in evaluation mode.
        e: with one of GRAPH_TTA.
        d: how images are resized and standardised.
    """

    def __init__(self, method: Method, e: EvalConfig, d: DataConfig):
        super().__init__()
        self.method, self.tta, self.d = method, e.tta, d

    def forward(self, images: Tensor, controls: Tensor | None = None) -> Tensor:
        """Logits of images (N, C, H, W) of any depth as float32, with controls_bn by (M, C, H, W) alike."""
        passes = (images,) if controls is None else (controls, images)
        prepared = [augment(x, self.d.plain, size=self.d.size) for x in passes]
        return ADAPTERS[self.tta](self.method, prepared, ())[-1]


def export_model(
    model: Model,
    out: Path,
    kind: str = "onnx",
    tta: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Path:
    """Write a model as a file that needs nothing of this package.

    Args:
        model: on any device; left as it is.
        out: the file, `.onnx` or `.pt2`.
        kind: "onnx", or "torch" for `torch.export.load`.
        tta: one of GRAPH_TTA; None for the adaptation of the model's run.
        image_size: (H, W) of the images that will come; None for those of training.

    Returns:
        The file.

    Raises:
        InputError: for an adaptation that is no graph, an existing file, or a package that is missing.
    """
    write, ending = FORMATS[kind]
    if out.suffix != ending:
        raise InputError(f"OUT must end in {ending} for --format {kind}; got {out}")
    if out.exists():
        raise InputError(f"{out} exists and is not overwritten; remove it, or give another OUT")
    e = graph_evaluation(model, tta)
    height, width = image_size or trained_size(model)
    about = {
        "classes": model.classes,
        "channels": model.channels,
        "image_size": [height, width],
        "tta": e.tta,
        "tta_min": e.tta_min,
        "controls": e.tta_controls if e.tta == "controls_bn" else None,
        "bio_batch_fields": model.about["data"]["bio_batch_fields"],
        "algorithm": model.config.algorithm,
        "model": model.config.model.model,
        "checkpoint": model.about["checkpoint"],
        "data_digest": model.about["data"]["digest"],
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as temporary, frozen(model.method):
            program = traced(model, e, (height, width))
            write(program, temporary, {key: json.dumps(value) for key, value in about.items()})
    except OSError as fault:
        raise InputError(f"{out} cannot be written ({fault.strerror}); give another OUT") from None
    return out


def graph_evaluation(model: Model, tta: str | None) -> EvalConfig:
    """The evaluation settings of a graph.

    Raises:
        InputError: for an adaptation that cannot be one, or finds nothing to adapt.
    """
    name = model.config.eval.tta if tta is None else tta
    if name not in GRAPH_TTA:
        raise InputError(
            f"--tta {name} learns, reads predictions or goes through a plate more than once, which no graph "
            f"can; give --tta {', '.join(GRAPH_TTA[:-1])} or {GRAPH_TTA[-1]}"
        )
    return model.evaluation(name)


def trained_size(model: Model) -> tuple[int, int]:
    """(H, W) of the images of training.

    Raises:
        InputError: if the run did not say.
    """
    size = tuple(model.about["data"].get("image_size") or ())
    if len(size) != 2:
        raise InputError("the run of this model does not say how large its images were; give --image_size")
    return size


@torch.no_grad()
def traced(model: Model, e: EvalConfig, side: tuple[int, int]) -> ExportedProgram:
    """The graph as torch has it, for any number of images, and with controls_bn of controls."""
    like = next(model.method.parameters())
    images = torch.zeros(3, len(model.channels), *side, device=like.device)
    # One image has no spread of its own where the last map is a single pixel.
    inputs, sizes = [images], {"images": {0: Dim("images", min=2 if e.tta == "plate_bn" else 1)}}
    if e.tta == "controls_bn":
        inputs.append(torch.cat([images, images]))
        sizes["controls"] = {0: Dim("controls", min=2)}
    graph = Graph(model.method, e, model.config.data).eval()
    program = torch.export.export(graph, tuple(inputs), dynamic_shapes=sizes, strict=False)
    program.example_inputs = None  # they would be stored
    return program


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter wants a gradient: a graph whose weights do cannot take statistics in use."""
    wanting = [p for p in module.parameters() if p.requires_grad]
    try:
        module.requires_grad_(False)
        yield
    finally:
        for p in wanting:
            p.requires_grad_(True)


def write_onnx(program: ExportedProgram, path: Path, about: Mapping[str, str]) -> None:
    """Write the graph as ONNX, with what is known of the model as metadata.

    Raises:
        InputError: if onnx is not installed.
    """
    onnx_package()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about parts of torch
        made: Any = torch.onnx.export(program, dynamo=True, output_names=[OUTPUT], verbose=False)
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    made.rename_axes({str(node.meta["val"].shape[0]): node.name for node in inputs})
    made.model.metadata_props.update(about)
    made.save(str(path))


def onnx_package() -> ModuleType:
    """onnxscript, which is an extra.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return import_module("onnxscript")
    except ModuleNotFoundError as fault:
        if fault.name not in ("onnxscript", "onnx"):
            raise
        raise InputError(
            "--format onnx needs the packages onnx and onnxscript, which are not installed; run `pip install "
            "'abra-wilds[export]'`, or give --format torch"
        ) from None


def write_torch(program: ExportedProgram, path: Path, about: Mapping[str, str]) -> None:
    """Write the graph as a .pt2 archive: its program is JSON, its weights are plain bytes."""
    content = json.dumps({key: json.loads(value) for key, value in about.items()})
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={ABOUT: content})


FORMATS: Mapping[str, tuple[Callable[[ExportedProgram, Path, Mapping[str, str]], None], str]] = (
    MappingProxyType({"onnx": (write_onnx, ".onnx"), "torch": (write_torch, ".pt2")})
)
