"""Projection and prediction heads of self-supervised methods, by the package lightly.

lightly is imported when a head is built, so that nothing else needs it. Its parts used here need torch and
torchvision alone.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from types import ModuleType

from torch import nn

from abra_wilds.compat.imports import torchvision_importable
from abra_wilds.errors import InputError


def lightly(part: str) -> ModuleType:
    """A module of lightly, such as "loss" or "models.modules".

    Raises:
        InputError: if lightly is not installed.
    """
    torchvision_importable()  # lightly imports torchvision
    try:
        import_module("lightly")
    except ModuleNotFoundError as fault:
        if fault.name != "lightly":
            raise
        raise InputError(
            "self-supervised methods need the package lightly, which is not installed; "
            "run `pip install 'abra-wilds[ssl]'`, or choose another --algorithm"
        ) from None
    return import_module(f"lightly.{part}")


def simclr_projector(d_in: int, hidden: int, out: int) -> nn.Module:
    """Linear, batch norm, ReLU, linear, batch norm (SimCLR): (N, d_in) -> (N, out)."""
    head: nn.Module = lightly("models.modules").SimCLRProjectionHead(d_in, hidden, out)
    return head


def byol_projector(d_in: int, hidden: int, out: int) -> nn.Module:
    """Linear, batch norm, ReLU, linear (BYOL): (N, d_in) -> (N, out)."""
    head: nn.Module = lightly("models.modules").BYOLProjectionHead(d_in, hidden, out)
    return head


def byol_predictor(d_in: int, hidden: int) -> nn.Module:
    """From online to teacher projections, built as `byol_projector`: (N, d_in) -> (N, d_in)."""
    head: nn.Module = lightly("models.modules").BYOLPredictionHead(d_in, hidden, d_in)
    return head


def dino_head(d_in: int, hidden: int, bottleneck: int, prototypes: int) -> nn.Module:
    """Three linear layers with GELU, unit length, weight-normalised prototypes (DINO).

    It cannot be deep-copied, because weight norm keeps a computed weight; build two and load the state of one
    into the other.

    Returns:
        (N, d_in) -> (N, prototypes).
    """
    build = lightly("models.modules").DINOv2ProjectionHead
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about the weight norm that lightly uses
        head: nn.Module = build(d_in, hidden, bottleneck, prototypes)
    return head
