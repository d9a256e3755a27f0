"""Where half precision ends: statistics, perturbation and losses run in float32 or better."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """A context without autocast, for statistics and losses of tensors that `at_least_fp32` made."""
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def at_least_fp32(x: Tensor) -> Tensor:
    """The tensor itself, or its float32 copy where x is half precision; float64 stays float64."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
