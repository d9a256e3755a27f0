"""Backbones by name, as StagedNets, for any number of input channels."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from abra_wilds.compat.imports import torchvision_importable
from abra_wilds.errors import InputError
from abra_wilds.nets.published import names_of, with_published
from abra_wilds.nets.staged import STAGES, StagedNet
from abra_wilds.nets.vit import staged_vit

# Those of WILDS' pretrained=True and of its published rows; torchvision's "DEFAULT" has moved on.
WEIGHTS = "IMAGENET1K_V1"
# Its patches of 16 divide RxRx1's 256 pixels.
VIT_SMALL = "vit_small_patch16_224"
# What timm's networks of stem and stages may have after the stages and before the head.
TAILS = ("final_conv", "final_act", "norm_pre", "norm")


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
    net = torchvision_net(name, pretrained)
    if new_stem or in_channels != 3:
        net.conv1 = fresh_convolution(in_channels, net.conv1.out_channels)
    stages = {
        "stem": nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool),
        "res1": net.layer1,
        "res2": net.layer2,
        "res3": net.layer3,
        "res4": net.layer4,
    }
    expansion = net.layer1[0].expansion
    widths = [net.conv1.out_channels, *(expansion * planes for planes in (64, 128, 256, 512))]
    return with_published(StagedNet(stages, dict(zip(stages, widths, strict=True))), names_of(net))


def densenet(name: str, in_channels: int, pretrained: bool, new_stem: bool) -> StagedNet:
    """A torchvision DenseNet; "res1".."res3" are a dense block with its transition each.

    "res4" is the last dense block with `norm5` and the ReLU after it: a train-mode batch norm undoes a
    shift of channel statistics before it. After the other stages that is so for mean and deviation alike,
    since whatever reads them begins with a batch norm.

    Args:
        name: a torchvision builder, such as "densenet161".
        in_channels: C_in.
        pretrained: load torchvision's ImageNet weights.
        new_stem: replace the first convolution by Conv2d(C_in, D, 7, 2, 3, bias=False), D being its width
            (96 in DenseNet-161); always done for C_in != 3.

    Raises:
        InputError: if the weights cannot be had.
    """
    net = torchvision_net(name, pretrained)
    f = net.features
    if new_stem or in_channels != 3:
        f.conv0 = fresh_convolution(in_channels, f.conv0.out_channels)
    stages = {
        "stem": nn.Sequential(f.conv0, f.norm0, f.relu0, f.pool0),
        "res1": nn.Sequential(f.denseblock1, f.transition1),
        "res2": nn.Sequential(f.denseblock2, f.transition2),
        "res3": nn.Sequential(f.denseblock3, f.transition3),
        "res4": nn.Sequential(f.denseblock4, f.norm5, nn.ReLU(inplace=True)),
    }
    cut = [f.transition1.conv, f.transition2.conv, f.transition3.conv]
    widths = [f.conv0.out_channels, *(conv.out_channels for conv in cut), f.norm5.num_features]
    return with_published(StagedNet(stages, dict(zip(stages, widths, strict=True))), names_of(net))


def torchvision_net(name: str, pretrained: bool) -> Any:
    """A network of torchvision's, with its ImageNet weights if pretrained.

    Raises:
        InputError: if the weights cannot be had.
    """
    try:
        return torchvision_models().get_model(name, weights=WEIGHTS if pretrained else None)
    except (URLError, OSError, RuntimeError) as fault:
        if not pretrained:
            raise
        url = torchvision_models().get_model_weights(name)[WEIGHTS].url
        raise unavailable(f"ImageNet weights of {name}", fault, url) from None


def unavailable(weights: str, fault: Exception, source: str) -> InputError:
    """The refusal for weights that could not be fetched from their source."""
    reason = next(iter(str(fault).splitlines()), type(fault).__name__).rstrip(".")
    return InputError(
        f"the {weights} could not be loaded ({reason}); connect to the network once, give their file, from "
        f"{source}, by --pretrained_model_path FILE --load_featurizer_only, or start from random weights "
        "with --pretrained false"
    )


def fresh_convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    """The first convolution of ResNets and DenseNets for another number of input channels."""
    conv = nn.Conv2d(in_channels, out_channels, 7, 2, 3, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def timm_net(name: str, in_channels: int, pretrained: bool, new_stem: bool) -> StagedNet:
    """A network of timm's: a VisionTransformer, a ResNet, or one with a stem and four stages like ConvNeXt.

    "res4" ends where timm's own `forward_features` ends.

    Args:
        name: "timm:" and a name of timm's, with or without the tag of its weights; or "vit_small".
        in_channels: C_in; timm spreads pretrained weights of the first convolution over them.
        pretrained: load the weights that timm has under this name.
        new_stem: start the first convolution, which may be the patch embedding, from random weights.

    Raises:
        InputError: if timm is absent, does not know the name or has no weights for it, or if the network does
            not fall into five stages.
    """
    timm = timm_package()
    arch = VIT_SMALL if name == "vit_small" else name.removeprefix("timm:")
    known = {*timm.list_models(), *timm.list_pretrained()}
    if arch not in known:
        near = ", ".join(f"timm:{n}" for n in get_close_matches(arch, sorted(known))) or "timm.list_models()"
        raise InputError(f"timm {timm.__version__} has no model {arch!r}; it has {near}")
    is_vit = timm.models.is_model_in_modules(arch, ["vision_transformer"])
    more = {"dynamic_img_size": True} if is_vit else {}
    try:
        net = timm.create_model(arch, pretrained=pretrained, in_chans=in_channels, num_classes=0, **more)
    except (OSError, RuntimeError, ValueError) as fault:
        if not pretrained:
            raise
        known_as = getattr(timm.get_pretrained_cfg(arch), "hf_hub_id", None) or arch
        source = f"{known_as} (model.safetensors)"
        raise unavailable(f"weights of timm's {arch}", fault, source) from None
    theirs = names_of(net)
    staged = with_published(staged_vit(net) if is_vit else staged_cnn(net, arch, in_channels), theirs)
    if new_stem:
        first: Any = next(m for m in staged.stages["stem"].modules() if isinstance(m, nn.Conv2d))
        first.reset_parameters()
    return staged


def spread(weight: Tensor, in_channels: int) -> Tensor:
    """The weight (D, 3, h, w) of a first convolution for C_in channels, (D, C_in, h, w), as timm has it."""
    wider: Tensor = timm_package().models.adapt_input_conv(in_channels, weight)
    return wider


def timm_package() -> ModuleType:
    """timm, which is an extra.

    Raises:
        InputError: if it is not installed.
    """
    torchvision_importable()  # timm imports torchvision
    try:
        return import_module("timm")
    except ModuleNotFoundError as fault:
        if fault.name != "timm":
            raise
        raise InputError(
            "vit_small and timm:NAME need the package timm, which is not installed; "
            "run `pip install 'abra-wilds[timm]'`, or choose another --model"
        ) from None


def staged_cnn(net: Any, arch: str, in_channels: int) -> StagedNet:
    """A convolutional network of timm's in five stages, if its modules have the names that say how.

    Raises:
        InputError: if they do not, or if the five stages would not be the whole network.
    """
    refusal = InputError(
        f"timm's {arch} does not fall into stem and res1 to res4; choose one of its ResNets, ConvNeXts or "
        "VisionTransformers, such as timm:resnet26, timm:convnext_tiny or timm:vit_base_patch16_224"
    )
    parts = dict(net.named_children())
    if {"conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"} <= parts.keys():
        stem = nn.Sequential(*(parts[n] for n in ("conv1", "bn1", "act1", "maxpool")))
        modules = [stem, *(parts[f"layer{k}"] for k in range(1, 5))]
    elif {"stem", "stages"} <= parts.keys() and len(parts["stages"]) == 4:
        *front, last = parts["stages"].children()
        modules = [parts["stem"], *front, nn.Sequential(last, *(parts[n] for n in TAILS if n in parts))]
    else:
        raise refusal
    widths = checked_widths(net, modules, in_channels)
    if widths is None:
        raise refusal
    return StagedNet(dict(zip(STAGES, modules, strict=True)), dict(zip(STAGES, widths, strict=True)))


def checked_widths(net: Any, modules: list[nn.Module], in_channels: int) -> list[int] | None:
    """Output channels of modules in a row, or None where these are not the network that they come from.

    They are if they hand on maps (N, C, h, w) of the channels that timm lists, and the last one what
    `forward_features` gives; on the meta device values go unseen.
    """
    like = next(net.parameters())
    image = torch.linspace(-1, 1, in_channels * 64 * 64, device=like.device, dtype=like.dtype)
    x = image.reshape(1, in_channels, 64, 64)
    widths = []
    net.eval()
    try:
        with torch.no_grad():
            whole = net.forward_features(x)
            for module in modules:
                x = module(x)
                widths.append(x.shape[1] if x.dim() == 4 else 0)
    except (RuntimeError, AssertionError):  # of networks for images of one size
        return None
    net.train()
    same = x.shape == whole.shape and (x.is_meta or torch.allclose(x, whole))
    listed = [stage["num_chs"] for stage in net.feature_info[-4:]]
    return widths if same and widths[1:] == listed else None


def torchvision_models() -> ModuleType:
    """torchvision.models, also where torchvision needs help to be imported."""
    torchvision_importable()
    return import_module("torchvision.models")


BACKBONES: dict[str, Callable[..., StagedNet]] = {
    "resnet18": resnet,
    "resnet50": resnet,
    "densenet121": densenet,
    "densenet161": densenet,
    "vit_small": timm_net,
}


def by_timm(name: str) -> bool:
    """Whether timm makes the network, and its weights, of this name."""
    return name.startswith("timm:") or BACKBONES.get(name) is timm_net


def build_net(name: str, in_channels: int, pretrained: bool, new_stem: bool = False) -> StagedNet:
    """The backbone called `name`: one of BACKBONES, or "timm:NAME" for a network of timm's.

    Raises:
        InputError: if there is none, its weights cannot be had, or timm is needed and absent.
    """
    build = timm_net if by_timm(name) else BACKBONES.get(name)
    if build is None:
        raise InputError(f"unknown model {name!r}; choose one of {', '.join(BACKBONES)} or timm:NAME")
    kwargs: dict[str, Any] = {"in_channels": in_channels, "pretrained": pretrained, "new_stem": new_stem}
    return build(name, **kwargs)
