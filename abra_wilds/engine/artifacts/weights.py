"""First weights from a file: of a run here or of WILDS, or as torchvision and timm publish them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from abra_wilds.config.run import RunConfig
from abra_wilds.engine.artifacts.checkpoint import brief, read_checkpoint
from abra_wilds.engine.artifacts.origins import Sources, by_channel, by_class
from abra_wilds.errors import InputError
from abra_wilds.methods.base import Method
from abra_wilds.nets.backbones import spread
from abra_wilds.nets.published import Weights, first_weight, weights_for
from abra_wilds.nets.staged import StagedNet
from abra_wilds.types import DataInfo

# Under which checkpoints keep a state dict, WILDS' first.
CONTAINERS = ("algorithm", "state_dict", "model")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, which is a checkpoint, a bare state dict or .safetensors.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    if path.suffix == ".safetensors" and path.is_file():
        return read_safetensors(path)
    state: Mapping[str, Any] = read_checkpoint(path)
    inside = next((state[key] for key in CONTAINERS if isinstance(state.get(key), Mapping)), state)
    return {str(name): weight for name, weight in inside.items() if isinstance(weight, torch.Tensor)}


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file of the package safetensors, which timm brings along.

    Raises:
        InputError: if it cannot be read, or the package is absent.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise InputError(f"{path} needs the package safetensors; run `pip install safetensors`") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as fault:
        raise InputError(f"{path} cannot be read ({fault}); fetch it again") from None


def load_backbone(
    path: Path,
    net: StagedNet,
    new_stem: bool = False,
    timm: bool = False,
    stem: Sources | None = None,
) -> tuple[Weights, bool]:
    """Start a backbone from a file.

    Of published weights the first convolution stays fresh where it is to be replaced or images have other
    channels, as it does of downloaded ones; timm's is spread over the channels.

    Args:
        path: of the file.
        net: the backbone.
        new_stem: whether its first convolution was asked to be a fresh one.
        timm: whether the network is timm's.
        stem: where each channel is among the file's, for `by_channel`; None where they are the same.

    Returns:
        What the file holds, and whether the first convolution is a fresh one.

    Raises:
        InputError: if the file lacks a weight, or has one of another shape.
    """
    found = weights_for(net, read_weights(path))
    if found.missing:
        raise InputError(
            f"{path} lacks {len(found.missing)} weights of this model, the first is net.{found.missing[0]}; "
            "use its --model"
        )
    backbone, first = dict(found.backbone), first_weight(net)
    own = net.state_dict()[first]
    fresh = not found.own and (new_stem or backbone[first].shape[1:2] != own.shape[1:2])
    if fresh and timm and not new_stem:
        backbone[first], fresh = spread(backbone[first], own.shape[1]), False
    elif fresh:
        backbone[first] = own
    elif stem is not None:
        backbone[first] = by_channel(backbone[first], stem)
    try:
        net.load_state_dict(backbone, strict=False)
    except RuntimeError as fault:
        raise InputError(f"{path} does not fit this model: {brief(fault)}; use its --model") from None
    return found, fresh


def load_head(path: Path, found: Weights, method: Method, rows: Sources | None = None) -> None:
    """Start a method's classifier from that of a file.

    Args:
        path: of the file.
        found: what it holds.
        method: whose classifier it is.
        rows: where each class is among the file's, for `by_class`; None where they are the same.

    Raises:
        InputError: if the file has none, or one of other features or, without `rows`, classes.
    """
    wanted = method.head.state_dict()
    leave = "--load_featurizer_only leaves the classifier out"
    if not wanted.keys() <= found.head.keys():
        raise InputError(f"{path} holds no classifier of this model; {leave}")
    head = {name: found.head[name] for name in wanted}
    if rows is not None and all(head[n].shape[1:] == own.shape[1:] for n, own in wanted.items()):
        head = {name: by_class(own, head[name], rows) for name, own in wanted.items()}
    for name, weight in wanted.items():
        if head[name].shape != weight.shape:
            had, has = (list(t.shape) for t in (head[name], weight))
            raise InputError(
                f"{path} has a classifier whose {name} is {had}, and this one's is {has}; {leave}"
            )
    method.head.load_state_dict(head)


def refuse_random_stem(config: RunConfig, info: DataInfo) -> None:
    """Raise where nothing would ever train a first convolution that no published weights fit.

    Raises:
        InputError: with what to give instead.
    """
    if config.optim.n_epochs == 0:
        raise InputError(
            f"--n_epochs 0 trains no backbone, and the first convolution of {config.model.model} for "
            f"{info.in_channels} channels (--new_stem {str(config.model.new_stem).lower()}) would stay "
            "random before published weights; give the checkpoint of a run on these channels by "
            "--pretrained_model_path, or a --model of timm, which spreads its weights over the channels, and "
            "--new_stem false"
        )
