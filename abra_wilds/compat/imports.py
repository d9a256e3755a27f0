"""What WILDS 2.0 needs and today's torch, torchvision, torch_scatter and pandas do not give by themselves.

Nothing happens when this module is imported; callers ask for `import_wilds` before they touch WILDS.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from abra_wilds.errors import InputError

STAND_IN_VERSION = "abra_wilds stand-in"

# What WILDS was given in place of what it misses, by package, in words for a person.
SUPPLIED: dict[str, str] = {}

_kept: list[torch.library.Library] = []  # a Library that is collected takes its operators with it


def torchvision_importable() -> bool:
    """Whether torchvision can be imported, once the operators it misses on a CPU-only torch are declared.

    The ready-made torchvision expects `nms` from a compiled part that does not load next to a CPU-only torch;
    the schemas alone are enough for models, transforms and WILDS. Where torchvision works, nothing is
    touched.
    """
    try:
        importlib.import_module("torchvision")
        return True
    except ImportError:
        return False
    except RuntimeError as fault:
        if "torchvision::" not in str(fault) or torch.version.cuda is not None or _kept:
            raise
    forget("torchvision")
    operators: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(operators)
    SUPPLIED["torchvision"] = "its compiled part does not load next to this torch; nms and qnms are declared"
    return torchvision_importable()


def scatter(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: None = None,
    dim_size: int | None = None,
    reduce: str = "mean",
) -> Tensor:
    """Group means along one dimension, as torch_scatter gives them; groups without a member are 0.

    Args:
        src: values, any shape.
        index: group ids along `dim`, one-dimensional or of src's leading shape.
        dim: the dimension that is grouped.
        out: must be None; WILDS never passes it.
        dim_size: number of groups; None takes the largest id plus one.
        reduce: must be "mean", the only reduction WILDS asks for.

    Raises:
        NotImplementedError: for `out` or another reduction.

    >>> scatter(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), dim_size=4)
    tensor([2., 0., 5., 0.])
    """
    if reduce != "mean" or out is not None:
        raise NotImplementedError(
            f"the stand-in for torch_scatter gives means only, not reduce={reduce!r} or out; "
            "install torch-scatter"
        )
    dim = dim % src.dim()
    if index.dim() == 1:
        index = index.reshape([-1 if d == dim else 1 for d in range(src.dim())])
    index = index.reshape(index.shape + (1,) * (src.dim() - index.dim())).expand_as(src)
    n_groups = dim_size if dim_size is not None else (int(index.max()) + 1 if index.numel() else 0)
    shape = [n_groups if d == dim else n for d, n in enumerate(src.shape)]
    total = src.new_zeros(shape).scatter_add_(dim, index, src)
    count = src.new_zeros(shape).scatter_add_(dim, index, torch.ones_like(src)).clamp_(min=1)
    return total / count if src.is_floating_point() else total.div_(count, rounding_mode="floor")


def scatter_backend() -> str:
    """What WILDS will average with: "torch_scatter <version>", or the stand-in put in its place.

    A wheel built for another torch fails with OSError (an undefined symbol), not ImportError.
    """
    try:
        module = importlib.import_module("torch_scatter")
    except (ImportError, OSError):
        forget("torch_scatter")
        module = _stand_in()
        sys.modules["torch_scatter"] = module
        SUPPLIED["torch_scatter"] = "it does not load; abra_wilds computes the same group means"
    version = str(getattr(module, "__version__", "of unknown version"))
    return version if version == STAND_IN_VERSION else f"torch_scatter {version}"


def import_wilds() -> ModuleType:
    """WILDS, imported so that it works here and looks for no network.

    Raises:
        InputError: if torchvision cannot be imported.
    """
    if not torchvision_importable():
        raise InputError("wilds needs torchvision and it cannot be imported here; install torchvision")
    scatter_backend()
    wilds = sys.modules["wilds"] if "wilds" in sys.modules else _import_quietly()
    _patch_rxrx1()
    return wilds


def _import_quietly() -> ModuleType:
    os.environ.setdefault("OUTDATED_IGNORE", "1")
    missing = object()
    outdated: Any = sys.modules.get("outdated", missing)
    # WILDS asks PyPI for newer releases in a thread of its own, unless `outdated` cannot be imported.
    sys.modules["outdated"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("wilds")
    finally:
        if outdated is missing:
            del sys.modules["outdated"]
        else:
            sys.modules["outdated"] = outdated


def _patch_rxrx1() -> None:
    pandas = importlib.import_module("pandas")
    rxrx1: Any = importlib.import_module("wilds.datasets.rxrx1_dataset")
    if int(pandas.__version__.split(".")[0]) >= 3 and rxrx1.pd is pandas:
        rxrx1.pd = importlib.import_module("abra_wilds.compat.writable")
        SUPPLIED["pandas"] = (
            f"{pandas.__version__} makes read-only what WILDS' RxRx1 writes into; it gets copies"
        )


def _stand_in() -> ModuleType:
    module: Any = ModuleType("torch_scatter", "Group means for WILDS where torch_scatter does not load.")
    module.scatter = scatter
    module.__version__ = STAND_IN_VERSION
    return module  # type: ignore[no-any-return]


def forget(package: str) -> None:
    """Drop what a failed import of a package has left, so that the next import starts afresh."""
    for name in [m for m in sys.modules if m == package or m.startswith(package + ".")]:
        del sys.modules[name]
