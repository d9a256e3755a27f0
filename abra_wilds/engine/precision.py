"""How fast a step runs: the backbone's precision, memory format and compilation, and fused optimisers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler

from abra_wilds.config.precision import SpeedConfig
from abra_wilds.errors import InputError
from abra_wilds.methods.base import Method
from abra_wilds.nets.staged import StagedNet

DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
BACKEND = "inductor"
# Graphs of the same stages: for training and evaluation, for one batch size and for any, with and without
# running statistics. Torch's own limit, beyond which it runs uncompiled, is 8.
GRAPHS = 32
# Arguments of torch's optimisers that choose an implementation.
CHOICES = ("fused", "foreach", "differentiable")


def check_speed(speed: SpeedConfig, device: torch.device) -> None:
    """Raise where the device cannot compute as asked.

    Raises:
        InputError: with what can be had.
    """
    if speed.amp == "fp16" and device.type != "cuda":
        raise InputError(f"--amp fp16 needs a CUDA device, and this is {device}; use --amp bf16, or none")
    native = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if speed.amp == "bf16" and not native:
        name = torch.cuda.get_device_name(device)
        raise InputError(f"{name} has no arithmetic in bf16; use --amp fp16, or none")
    if speed.amp == "bf16" and device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise InputError("--amp bf16 on mps needs macOS 14; use none")
    if speed.compile:
        check_compiler(device)


def check_compiler(device: torch.device) -> None:
    """Raise unless an addition can be compiled by the tools that the backbone will need.

    Raises:
        InputError: with what went wrong.
    """
    try:
        torch.compile(lambda x: x + 1, backend=BACKEND)(torch.zeros(2, device=device))
    except TypeError:  # a call that this torch does not know, which no tool would change
        raise
    except Exception as fault:  # torch's compilers have no common error
        inner = getattr(fault, "inner_exception", fault)
        reason = next(iter(str(inner).strip().splitlines()), type(inner).__name__)
        needs = {"cpu": "g++ or clang++", "mps": "a newer torch"}.get(device.type, "Triton and a C compiler")
        raise InputError(
            f"--compile cannot compile for {device} here ({reason}); install {needs}, or leave it out"
        ) from None


def allow_graphs() -> None:
    """Let torch compile one function, in all of this process, at least `GRAPHS` times."""
    config: Any = torch._dynamo.config
    # Its name is that of torch 2.7 and later, and as an argument of torch.compile it is younger still.
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, max(GRAPHS, getattr(config, name)))


def configure_precision(method: Method, speed: SpeedConfig) -> None:
    """Let a method's backbones, teachers included, run as configured, in training and whatever predicts.

    Everything outside them stays in float32. Keys and values of the state dict do not change. On CUDA cuDNN
    times its algorithms once for each shape of a convolution and keeps the fastest, for the whole process.

    Args:
        method: on its device, before an optimiser holds its parameters.
        speed: checked.

    Raises:
        InputError: if the method cannot learn from a scaled loss.
    """
    if speed.amp == "fp16" and not method.scalable:
        raise InputError(
            f"--amp fp16 scales the loss of theta alone, and {method.name} as configured differentiates the "
            "backbone for itself, where gradients would vanish in fp16; use --amp bf16, or none"
        )
    if any(p.device.type == "cuda" for p in method.parameters()):
        torch.backends.cudnn.benchmark = True  # it pays, because batches come in two or three sizes
    if speed.compile:
        allow_graphs()
    for net in [m for m in method.modules() if isinstance(m, StagedNet)]:
        net.amp = DTYPES[speed.amp]
        net.channels_last = speed.channels_last
        if speed.channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if speed.compile:
            net.compile(backend=BACKEND)


def make_scaler(speed: SpeedConfig, device: torch.device) -> GradScaler:
    """What scales the loss for fp16, and for every other precision leaves it alone."""
    return GradScaler(device.type, enabled=speed.amp == "fp16")


def fused(parameters: Iterable[nn.Parameter], given: Collection[str]) -> dict[str, bool]:
    """The argument that has an optimiser move all parameters in one kernel, where they are on a GPU.

    On a CPU torch's default stays, whose results do not depend on its version's vector code.

    Args:
        parameters: of the optimiser.
        given: names of arguments that are given; a choice among them stays.
    """
    on_gpu = all(p.device.type == "cuda" for p in parameters)
    return {"fused": True} if on_gpu and not set(CHOICES) & set(given) else {}
