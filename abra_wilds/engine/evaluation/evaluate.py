"""Predictions in dataset order, WILDS' own evaluation of them, and batch-norm statistics to predict with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.data.reading.prefetch import prefetched
from abra_wilds.data.samplers.passes import PassSampler
from abra_wilds.dist import max_across_ranks, means_across_ranks
from abra_wilds.engine.step import out_of_memory
from abra_wilds.methods.base import Method
from abra_wilds.nets.staged import BATCH_NORMS
from abra_wilds.results.files import write_text
from abra_wilds.tta.adapters import Adapter, running_statistics
from abra_wilds.types import Batch, InputError, Target, groups_of

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSSubset

Watch = Callable[[Tensor, Batch], None]
Size = tuple[int, int] | None


@torch.no_grad()
def predict(
    method: Method,
    loader: Loader,
    device: torch.device,
    size: Size = None,
    watch: Watch | None = None,
    *,
    adapter: Adapter = running_statistics,
    known: Tensor | None = None,
    transform: str = "none",
) -> Tensor:
    """Class ids of a split, (n,) int64 on the host, in dataset order whatever the loader's order.

    All images of a bio-batch are on the host as bytes, and one pass of them at a time is on the device.

    Args:
        method: is left in evaluation mode.
        loader: yields every image of the split once.
        device: where the method lives.
        size: (H, W) to which images are resized, or None.
        watch: called with the logits (N, O) of a pass and its batch without images, for whoever averages
            losses.
        adapter: predicts the bio-batches of a loader with a `PassSampler`.
        known: (n,) class ids of the split's rows that the adapter may know (controls), -1 of all others.
        transform: `DataConfig.plain`.

    Raises:
        InputError: if a pass does not fit the device.
    """
    method.eval()
    y_pred = torch.full((len(loader.rows),), -1, dtype=torch.int64, device=device)
    for passes, adapted in bio_batches(loader):
        images = (augment(b.x.to(device, non_blocking=True), transform, size=size) for b in passes)
        try:
            labels = () if known is None else [known[b.rows.cpu()].to(device) for b in passes]
            logits = (adapter if adapted else running_statistics)(method, images, labels)  # (N, O) each
        except RuntimeError as fault:
            if not out_of_memory(fault):
                raise
            raise InputError(
                f"a forward pass of up to {max(map(len, passes))} images does not fit the device's memory; "
                "train again, by --overwrite, with a lower --batch_size, predict a saved model with --amp "
                "bf16 or on --device cpu, or with --tta give a --tta_batch_size, whose parts then have "
                "statistics of their own; those of eb_bn do not, which saves a third at most"
            ) from None
        for batch, found in zip(passes, logits, strict=True):
            batch = replace(batch, x=batch.x[:0]).to(device)
            y_pred[batch.rows] = found.argmax(1)
            if watch is not None:
                watch(found, batch)
    return max_across_ranks(y_pred).cpu()


def bio_batches(loader: Loader) -> Iterator[tuple[list[Batch], bool]]:
    """The passes of each bio-batch, on the host, and whether its statistics are to be used.

    Of a loader without a `PassSampler` every batch is one, with the running statistics.
    """
    batches = iter(loader)
    if not isinstance(loader.sampler, PassSampler):
        yield from (([batch], False) for batch in batches)
        return
    for group, reads in zip(loader.sampler.plan, loader.sampler.reads, strict=True):
        yield [joined(list(islice(batches, n))) for n in reads], group.adapted


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches of an evaluation loader as one."""
    if len(batches) == 1:
        return batches[0]
    x, y, g, metadata, rows = (
        torch.cat(columns)
        for columns in zip(*((b.x, b.target.y, b.g, b.metadata, b.rows) for b in batches), strict=True)
    )
    return Batch(x, Target(y), g, metadata, rows, groups_of(g))


def score(subset: WILDSSubset, y_pred: Tensor, rows: Tensor | None = None) -> dict[str, float]:
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
    does not. Only the batch norms that `forward` reaches are touched, so that a discriminator or a teacher
    keeps its own. They alone run in training mode, and their momentum is put back.

    Args:
        method: whose batch norms are re-estimated, alike on all processes; left in evaluation mode.
        forward: runs images (N, C_in, H, W) through them.
        images: standardised batches on the method's device.
    """
    method.eval()
    norms = [m for m in method.modules() if isinstance(m, BATCH_NORMS)]
    if not norms:
        return
    momenta = {m: m.momentum for m in norms}
    reached: set[nn.Module] = set()

    def reset(norm: Any, _: Any) -> None:
        if norm not in reached:
            reached.add(norm)
            norm.reset_running_stats()
            norm.train()

    hooks = [m.register_forward_pre_hook(reset) for m in norms]
    try:
        for k, x in enumerate(images):
            for m in norms:
                m.momentum = 1 / (k + 1)  # the plain average; for None, torch's sign for it, the host waits
            with torch.compiler.set_stance("force_eager"):  # each momentum would be compiled again
                forward(x)
    finally:
        for hook in hooks:
            hook.remove()
        for m, momentum in momenta.items():
            m.momentum = momentum
            m.eval()
    average_bn(method)


@torch.no_grad()
def average_bn(method: nn.Module) -> None:
    """Replace running batch-norm statistics by their mean over all processes, so that all predict alike."""
    norms = [m for m in method.modules() if isinstance(m, BATCH_NORMS)]
    own = [t for m in norms for t in (m.running_mean, m.running_var) if t is not None]
    for t, mean in zip(own, means_across_ranks(own), strict=True):
        t.copy_(mean)


def plain_images(
    loader: Loader, device: torch.device, size: Size, transform: str = "none"
) -> Iterable[Tensor]:
    """The loader's images as evaluation sees them: standardised, not augmented (`DataConfig.plain`)."""
    for _, batch in prefetched(loader, device):
        yield augment(batch.x, transform, size=size)


def save_predictions(path: Path, y_pred: Tensor) -> None:
    """Write one class id a line, as WILDS does."""
    write_text(path, "".join(f"{label}\n" for label in y_pred.tolist()))
