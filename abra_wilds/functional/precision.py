"""Where half precision begins and ends: in the backbone; everything else runs in float32 or better."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def half_precision(device_type: str, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """A context with autocast to dtype for a backbone; None changes nothing, and meta tensors have none.

    No cast is kept: a weight is used once a pass, and one that a pass without gradients had cast would hide
    the weight from the gradients of the next.
    """
    if dtype is None or not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, dtype, cache_enabled=False)


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """A context without autocast, for statistics and losses of tensors that `at_least_fp32` made."""
    # An exported graph has no autocast that could reach into it, and would hold the context as a subgraph.
    if torch.compiler.is_exporting() or not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def in_float64(x: Tensor) -> Tensor:
    """The tensor in double precision, on the host where its device has none (MPS)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def at_least_fp32(x: Tensor) -> Tensor:
    """The tensor itself, or its float32 copy where x is half precision; float64 stays float64."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
