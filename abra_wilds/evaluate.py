"""Predictions in dataset order, WILDS' own evaluation of them, and batch-norm statistics to predict with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from abra_wilds.data.loaders import Loader
from abra_wilds.data.transforms import augment
from abra_wilds.files import whole
from abra_wilds.methods.base import Method
from abra_wilds.nets.staged import BATCH_NORMS
from abra_wilds.types import Batch, InputError

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSSubset

Watch = Callable[[Tensor, Batch], None]
Size = tuple[int, int] | None


@torch.no_grad()
def predict(
    method: Method, loader: Loader, device: torch.device, size: Size = None, watch: Watch | None = None
) -> Tensor:
    """Class ids of a split, (n,) int64 on the host, in dataset order whatever the loader's order.

    Args:
        method: is left in evaluation mode.
        loader: yields every image of the split once.
        device: where the method lives.
        size: (H, W) to which images are resized, or None.
        watch: called with the logits (N, O) and the batch, for whoever averages losses.
    """
    method.eval()
    y_pred = torch.full((len(loader.rows),), -1, dtype=torch.int64, device=device)
    for batch in loader:
        batch = batch.to(device)
        logits = method.predict(augment(batch.x, "none", size=size))  # (N, O)
        y_pred[batch.rows] = logits.argmax(1)
        if watch is not None:
            watch(logits, batch)
    return y_pred.cpu()


def evaluate(subset: WILDSSubset, y_pred: Tensor, rows: Tensor | None = None) -> dict[str, float]:
    """WILDS' evaluation of predictions (n,): acc_avg, acc_cell_type:NAME, acc_wg and counts.

    Args:
        subset: the split.
        y_pred: class ids.
        rows: positions in the split that they are of; None for the whole split in dataset order.
    """
    y_true, metadata = subset.y_array, subset.metadata_array
    if rows is not None:
        y_true, metadata = y_true[rows], metadata[rows]
    results, _ = subset.eval(y_pred, y_true, metadata)
    return {name: float(value) for name, value in results.items()}


def by_cell(results: Mapping[str, float]) -> dict[str, float]:
    """Accuracy of each cell type that occurs, as a fraction."""
    prefix = "acc_cell_type:"
    names = [k.removeprefix(prefix) for k in results if k.startswith(prefix)]
    return {name: results[prefix + name] for name in names if results[f"count_cell_type:{name}"] > 0}


@torch.no_grad()
def reestimate_bn(method: nn.Module, forward: Callable[[Tensor], Any], images: Iterable[Tensor]) -> None:
    """Replace running batch-norm statistics by their plain average over batches of training images.

    An exponential average over one-plate batches keeps the last few plates' noise; the average over one pass
    does not. Only batch norms run in training mode, and their momentum is put back.

    Args:
        method: whose batch norms are re-estimated; left in evaluation mode.
        forward: runs images (N, C_in, H, W) through them.
        images: standardised batches on the method's device.
    """
    method.eval()
    norms = [m for m in method.modules() if isinstance(m, BATCH_NORMS)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # torch's sign for a cumulative average
        m.train()
    try:
        for x in images:
            forward(x)
    finally:
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
            m.eval()


def plain_images(loader: Loader, device: torch.device, size: Size) -> Iterable[Tensor]:
    """The loader's images as evaluation sees them: standardised, not augmented."""
    for batch in loader:
        yield augment(batch.to(device).x, "none", size=size)


def save_predictions(path: Path, y_pred: Tensor) -> None:
    """Write one class id a line, as WILDS does."""
    with whole(path) as temporary:
        np.savetxt(temporary, y_pred.numpy(), fmt="%d")


def read_predictions(path: Path, n: int) -> Tensor:
    """Class ids (n,) int64 of a predictions file.

    Raises:
        InputError: if it holds anything but n integers.
    """
    try:
        values = [int(line) for line in path.read_text(encoding="utf-8").split()]
    except ValueError as fault:
        raise InputError(f"{path} must hold one class id a line ({fault}); predict again") from None
    if len(values) != n:
        raise InputError(f"{path} holds {len(values)} predictions for {n} images; predict again")
    return torch.tensor(values, dtype=torch.int64)
