"""Backbones by name, as StagedNets, for any number of input channels."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any
from urllib.error import URLError

from torch import nn

from abra_wilds.compat import torchvision_importable
from abra_wilds.errors import InputError
from abra_wilds.nets.staged import StagedNet

# Those behind WILDS' pretrained=True and its published rows; torchvision's "DEFAULT" has moved on.
WEIGHTS = "IMAGENET1K_V1"


def resnet(name: str, in_channels: int, pretrained: bool, new_stem: bool) -> StagedNet:
    """A torchvision ResNet; "res4" is the output of its `layer4` after the last block's ReLU.

    Args:
        name: a torchvision builder, such as "resnet50".
        in_channels: C_in.
        pretrained: load torchvision's ImageNet weights.
        new_stem: replace the first convolution by Conv2d(C_in, 64, 7, 2, 3, bias=False); always
            done for C_in != 3.

    Raises:
        InputError: if the weights cannot be had.
    """
    models = torchvision_models()
    try:
        net = models.get_model(name, weights=WEIGHTS if pretrained else None)
    except (URLError, OSError, RuntimeError) as fault:
        if not pretrained:
            raise
        raise InputError(
            f"the ImageNet weights of {name} could not be loaded ({str(fault).splitlines()[0]}); connect to "
            "the network once, put the file into torch's hub cache, give weights by --pretrained_model_path, "
            "or start from random weights with --pretrained false"
        ) from None
    if new_stem or in_channels != 3:
        net.conv1 = nn.Conv2d(in_channels, net.conv1.out_channels, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    stages = {
        "stem": nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool),
        "res1": net.layer1,
        "res2": net.layer2,
        "res3": net.layer3,
        "res4": net.layer4,
    }
    expansion = net.layer1[0].expansion
    widths = [net.conv1.out_channels, *(expansion * planes for planes in (64, 128, 256, 512))]
    return StagedNet(stages, dict(zip(stages, widths, strict=True)))


def torchvision_models() -> ModuleType:
    """torchvision.models, also where torchvision needs help to be imported."""
    torchvision_importable()
    return import_module("torchvision.models")


BACKBONES: dict[str, Callable[..., StagedNet]] = {"resnet18": resnet, "resnet50": resnet}


def build_net(name: str, in_channels: int, pretrained: bool, new_stem: bool = False) -> StagedNet:
    """The backbone called `name`.

    Raises:
        InputError: if there is none, or its weights cannot be had.
    """
    if name not in BACKBONES:
        raise InputError(f"unknown model {name!r}; choose one of {', '.join(BACKBONES)}")
    kwargs: dict[str, Any] = {"in_channels": in_channels, "pretrained": pretrained, "new_stem": new_stem}
    return BACKBONES[name](name, **kwargs)
