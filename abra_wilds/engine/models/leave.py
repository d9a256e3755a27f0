"""What training leaves beside WILDS' files: the best model as a folder, with what data alone can tell.

Letters: D features, O classes.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from abra_wilds.config.run import RunConfig
from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.data.samplers.batches import RowIds
from abra_wilds.data.samplers.passes import BioBatch, PassSampler
from abra_wilds.engine.artifacts.checkpoint import load_checkpoint
from abra_wilds.engine.artifacts.folder import RunFolder
from abra_wilds.engine.artifacts.logs import TextLog
from abra_wilds.engine.artifacts.origins import FIRST
from abra_wilds.engine.evaluation.components import saved_components
from abra_wilds.engine.models.opened import stored_of_run
from abra_wilds.engine.models.stored import Stored, predicting, write_stored
from abra_wilds.engine.setup import Data, reading_kwargs
from abra_wilds.methods.base import Method
from abra_wilds.results.records import MODEL

IMAGES_PER_CLASS = 32  # whose features make a class's centroid, at most


def leave_model(config: RunConfig, data: Data, method: Method, folder: RunFolder, log: TextLog) -> None:
    """Write the best model of a run, without val the last, as the folder `model` of the run's.

    Args:
        config: of the run.
        data: that it trained on.
        method: takes over the weights of that model.
        folder: of the run, with its models and records.
        log: of the run.
    """
    checkpoint = next((p for label in FIRST if (p := folder.model(label)).exists()), None)
    if not config.train.save_model or checkpoint is None:
        return
    for left in folder.path.glob(f".{MODEL}.*.tmp"):  # by a command that was killed; the folder is held
        shutil.rmtree(left, ignore_errors=True)
    load_checkpoint(checkpoint, method)
    write_stored(measured(config, data, method, checkpoint), folder.path / MODEL)
    log.write(f"{folder.path / MODEL} holds {checkpoint.name} as a model that needs no data")


def measured(config: RunConfig, data: Data, method: Method, checkpoint: Path) -> Stored:
    """A run's model with centroids of classes, and components of batch norms where the run adapts by them.

    Args:
        config: of the run.
        data: that it trained on.
        method: the same model on the data's device.
        checkpoint: its file.
    """
    stored = stored_of_run(checkpoint)
    found = stored.components
    wanted = next((e for e in (config.eval, *config.eval.alternatives()) if e.needs_components), None)
    if found is None and wanted is not None:
        found = saved_components(checkpoint, replace(config, eval=wanted), data, method)
    return replace(
        stored,
        weights={name: t.detach().cpu() for name, t in predicting(method).items()},
        components=found,
        centroids=class_centroids(config, data, method),
    )


@torch.no_grad()
def class_centroids(config: RunConfig, data: Data, method: Method) -> Tensor:
    """Mean of what the classifier reads of up to 32 training images of each class, (O, D), on the host.

    A class without training images has NaN.
    """
    method.eval()
    subset, d = data.subsets["train"], config.data
    rows = some_of_each(subset.y_array.numpy(), config.train.seed)
    sampler = PassSampler([BioBatch((rows,), False)], d.batch_size)
    loader = Loader(subset, data.grouper, sampler, **reading_kwargs(d, data.device))
    sums = torch.zeros(data.info.n_classes, method.head.in_features, dtype=torch.float64)
    counts = torch.zeros(data.info.n_classes, 1, dtype=torch.float64)
    for batch in loader:
        x = augment(batch.x.to(data.device, non_blocking=True), d.plain, size=d.size)
        sums.index_add_(0, batch.target.y, method.embed(x).double().cpu())
        counts += torch.bincount(batch.target.y, minlength=len(counts))[:, None]
    return (sums / counts).float()


def some_of_each(labels: RowIds, seed: int) -> RowIds:
    """At most IMAGES_PER_CLASS random rows of each class, in order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, first, of = np.unique(labels[order], return_index=True, return_inverse=True)
    rank = np.arange(len(order)) - first[of]
    found: RowIds = np.sort(order[rank < IMAGES_PER_CLASS])
    return found
