"""`abra-wilds embed`: what a saved model's classifier reads of each image, as profiles of sites and wells.

The embedding of an image is what the method's `classify` reads while `evaluate.predict` predicts it:
pooled features, after the method's neck where it has one, with the statistics of whatever --tta says. So it
is what the predictions of `abra-wilds predict` were made from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from abra_wilds.analysis.held_out import check_held_out
from abra_wilds.analysis.mixing_metrics import measurable, metrics_table, mixing_metrics
from abra_wilds.analysis.postprocess import check_controls, postprocessed
from abra_wilds.analysis.profiles import (
    TREATED_WELL,
    control_types,
    controls_of,
    metadata_of,
    parquet_package,
    well_means,
    wells_of,
    write_profiles,
)
from abra_wilds.analysis.saved import Saved, open_saved
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.dist import on_rank_zero, started, sum_across_ranks, world
from abra_wilds.engine.artifacts.logs import no_bar
from abra_wilds.engine.evaluation.components import adapter_of
from abra_wilds.engine.evaluation.evaluate import predict
from abra_wilds.engine.evaluation.saved import make_folder
from abra_wilds.engine.setup import evaluation_loaders
from abra_wilds.results.files import all_or_none, write_text
from abra_wilds.results.provenance import commit, versions
from abra_wilds.tta.adapters import Adapter
from abra_wilds.tta.features import check_embeds, classified
from abra_wilds.tta.plan import known_controls_of
from abra_wilds.types import Batch

LEVELS = ("site", "well")
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Embeddings:
    """Images as a classifier reads them.

    Attributes:
        features: (n, D), split after split and each in dataset order.
        table: (n rows) the Metadata_ columns of `profiles.metadata_of`.
    """

    features: NDArray[np.float32]
    table: pd.DataFrame


@started()
def embeddings(
    checkpoint: Path, splits: Sequence[str] | None = None, flags: Mapping[str, Any] | None = None
) -> Embeddings:
    """What a saved model's classifier reads of each image.

    Args:
        checkpoint: a model file of a run, with the run's config.json beside it.
        splits: which, train among them; None for all but train.
        flags: those of `config.PREDICTION_FLAGS` that differ from the run's.

    Raises:
        InputError: if anything does not fit.
    """
    saved = open_embeddable(checkpoint, splits, flags)
    loaders = evaluation_loaders(saved.config, saved.setup, saved.splits)
    return Embeddings(features_of(saved, loaders), table_of(saved, list(loaders)))


@started()
def embed_saved(
    checkpoint: Path,
    splits: Sequence[str] | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    levels: Sequence[str] = LEVELS,
    postprocess: str = "none",
    metrics: bool = False,
    out: Path | None = None,
) -> Path:
    """Write the embeddings of splits as site.parquet and well.parquet, and metrics; returns the folder.

    Args:
        checkpoint: a model file of a run, with the run's config.json beside it.
        splits: which, train among them; None for all but train.
        flags: those of `config.PREDICTION_FLAGS` that differ from the run's.
        levels: which of LEVELS.
        postprocess: a key of POSTPROCESS; fitted to sites of all splits, before sites are averaged.
        metrics: also print and write metrics of wells, before and after post-processing.
        out: the folder; None for one beside the checkpoint.

    Raises:
        InputError: if anything does not fit, would be overwritten, or aligning makes experiments easier to
            tell apart (`held_out`); its file would add what it is there to remove, so none is written.
    """
    parquet_package()
    saved = open_embeddable(checkpoint, splits, flags)
    loaders = evaluation_loaders(saved.config, saved.setup, saved.splits)
    table = table_of(saved, list(loaders))
    is_control = controls_of(table)
    batch = table["Metadata_Batch"].to_numpy(dtype=object)
    well, wells = wells_of(table, TREATED_WELL)
    check_controls(postprocess, batch, is_control, well)
    if metrics:
        measurable(wells)
    names = [f"{level}.parquet" for level in levels] + ([METRICS_FILE] if metrics else [])
    folder = out or saved.folder.path / folder_name(saved, postprocess)
    on_rank_zero(lambda: make_folder(folder, names))
    features = features_of(saved, loaders)

    def write() -> None:
        about = about_of(saved, list(loaders)) | {"postprocess": postprocess}
        found = {"none": features}
        if postprocess != "none" and is_control is not None:
            checked = check_held_out(postprocess, features, batch, is_control, well)
            sys.stdout.write(f"{postprocess}: {checked}\n")
            about["held_out_controls"] = asdict(checked)
            found[postprocess] = postprocessed(postprocess, features, batch, is_control)
        write_levels(folder, levels, Embeddings(found[postprocess], table), about)
        if metrics:
            write_metrics(folder / METRICS_FILE, found, table, about)

    with all_or_none(folder / name for name in names):
        on_rank_zero(write)
    return folder


def open_embeddable(checkpoint: Path, splits: Sequence[str] | None, flags: Mapping[str, Any] | None) -> Saved:
    """A saved model whose predictions are made from its embeddings.

    Raises:
        InputError: with a --tta that changes more than what the classifier reads.
    """
    saved = open_saved(checkpoint, flags, splits=splits, train=False)
    check_embeds(saved.config.eval.tta)
    return saved


def features_of(saved: Saved, loaders: Mapping[str, Loader]) -> NDArray[np.float32]:
    """The embeddings (n, D) of splits, one after the other."""
    config, setup, checkpoint = saved.config, saved.setup, saved.folder.model(saved.label)
    adapter = adapter_of(config.eval, config, setup, saved.method, checkpoint)
    return torch.cat(
        [read_features(saved, loader, split, adapter) for split, loader in loaders.items()]
    ).numpy()


def read_features(saved: Saved, loader: Loader, split: str, adapter: Adapter) -> Tensor:
    """The embeddings (n, D) of a split on the host, in dataset order whatever the loader's order."""
    method, config = saved.method, saved.config
    f = torch.zeros(len(loader.rows), method.head.in_features, device=saved.setup.device)
    bar = tqdm(
        desc=f"embedding {split}",
        total=len(f) // world(),
        unit="images",
        disable=no_bar(config.train),
    )

    def watch(logits: Tensor, batch: Batch) -> None:
        f[batch.rows] = read.popleft()
        bar.update(len(batch))

    setup = saved.setup
    known = known_controls_of(setup.subsets[split], config.eval)

    def last_read(*args: Any) -> list[Tensor]:
        logits = adapter(*args)
        while len(read) > len(logits):  # what gave the posteriors that the adapter goes by
            read.popleft()
        return logits

    with bar, classified(method) as read:
        d = config.data
        predict(
            method, loader, setup.device, d.size, watch, adapter=last_read, known=known, transform=d.plain
        )
    return sum_across_ranks(f).cpu()  # each row is one process's


def table_of(saved: Saved, splits: Sequence[str]) -> pd.DataFrame:
    """The metadata of splits, one after the other."""
    dataset = saved.setup.dataset
    types = control_types(dataset, saved.config.data.root_dir)
    parts = [metadata_of(saved.setup.subsets[split], split, types) for split in splits]
    return pd.concat(parts, ignore_index=True)


def folder_name(saved: Saved, postprocess: str) -> str:
    """The checkpoint, its adaptation and what was done after it, fit for a file name."""
    parts = ["embed", saved.label, saved.config.eval.adaptation or "none"]
    return "_".join(parts + ([] if postprocess == "none" else [postprocess]))


def about_of(saved: Saved, splits: Sequence[str]) -> dict[str, Any]:
    """Where embeddings come from."""
    return saved.about() | {
        "tta": saved.config.eval.adaptation,
        "splits": list(splits),
        "commit": commit(),
        "versions": versions(),
    }


def write_levels(folder: Path, levels: Sequence[str], found: Embeddings, about: Mapping[str, Any]) -> None:
    """Write the parquet file of each level."""
    for level in dict.fromkeys(levels):
        features, table = found.features, found.table
        if level == "well":
            well, table = wells_of(table)
            features = well_means(features, well)
        write_profiles(folder / f"{level}.parquet", features, table, {**about, "level": level})
        sys.stdout.write(f"wrote {folder / level}.parquet, {len(table):,} x {features.shape[1]:,}\n")


def write_metrics(
    path: Path, found: Mapping[str, NDArray[np.float32]], table: pd.DataFrame, about: Mapping[str, Any]
) -> None:
    """Measure wells, print a table of the numbers, and write them as JSON."""
    well, wells = wells_of(table, TREATED_WELL)
    entries = mixing_metrics({version: well_means(f, well) for version, f in found.items()}, wells)
    write_text(path, json.dumps({**about, "level": "well", "metrics": entries}, indent=2) + "\n")
    data = "simulated data" if about["simulated"] else about["dataset"]
    title = f"Experiments and siRNAs on {data}; a well is one row, with its sites of all splits"
    sys.stdout.write(f"{title}\n{metrics_table(entries, list(found))}")
