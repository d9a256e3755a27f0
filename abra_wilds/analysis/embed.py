"""`abra-wilds embed`: what a saved model's classifier reads of each image, as profiles of sites and wells.

The embedding of an image is what the method's `classify` reads while `evaluate.predict` predicts it:
pooled features, after the method's neck where it has one, with the statistics of whatever --tta says. So it
is what the predictions of `abra-wilds predict` were made from.
"""

from __future__ import annotations

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
from abra_wilds.analysis.metrics.baselines import (
    CHANNELS,
    POSITION,
    UNTRAINED,
    plate_position,
    untrained_copy,
)
from abra_wilds.analysis.metrics.cells import METRICS_FILE
from abra_wilds.analysis.metrics.wells import measurable
from abra_wilds.analysis.metrics.written import MODEL, check_metrics, write_metrics
from abra_wilds.analysis.postprocess import check_controls, postprocessed
from abra_wilds.analysis.profiles import (
    TREATED_WELL,
    annotation_column,
    annotation_of,
    control_types,
    controls_of,
    metadata_of,
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
from abra_wilds.results.files import all_or_none
from abra_wilds.results.provenance import commit, versions
from abra_wilds.tta.adapters import Adapter, running_statistics
from abra_wilds.tta.features import check_embeds, classified
from abra_wilds.tta.plan import known_controls_of
from abra_wilds.types import Batch

LEVELS = ("site", "well")


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
    metrics: str | None = None,
    annotation: str | None = None,
    pairs: Path | None = None,
    out: Path | None = None,
) -> Path:
    """Write the embeddings of splits as site.parquet and well.parquet, and metrics; returns the folder.

    Args:
        checkpoint: a model file of a run, with the run's config.json beside it.
        splits: which, train among them; None for all but train.
        flags: those of `config.PREDICTION_FLAGS` that differ from the run's.
        levels: which of LEVELS.
        postprocess: a key of POSTPROCESS; fitted to sites of all splits, before sites are averaged.
        metrics: of `metrics.table.SETS`, also printed and written of wells, for the model, before and after
            post-processing, and for what no training gives; None for none.
        annotation: a column of the metadata that says what treatments have in common, such as their gene.
        pairs: a csv file of pairs of annotations, or of class ids without those, known to be related.
        out: the folder; None for one beside the checkpoint.

    Raises:
        InputError: if anything does not fit, would be overwritten, or aligning makes experiments easier to
            tell apart (`held_out`); its file would add what it is there to remove, so none is written.
    """
    known = check_metrics(metrics, annotation, pairs)
    saved = open_embeddable(checkpoint, splits, flags)
    loaders = evaluation_loaders(saved.config, saved.setup, saved.splits)
    table = table_of(saved, list(loaders), annotation)
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
    others = baselines(saved, loaders, table) if metrics else {}

    def write() -> None:
        about = about_of(saved, list(loaders)) | {"postprocess": postprocess}
        rows = {MODEL: features} | others
        written = features
        if postprocess != "none" and is_control is not None:
            checked = check_held_out(postprocess, features, batch, is_control, well)
            sys.stdout.write(f"{postprocess}: {checked}\n")
            about["held_out_controls"] = asdict(checked)
            aligned = {
                f"{name}, {postprocess}": postprocessed(postprocess, rows[name], batch, is_control)
                for name in (MODEL, UNTRAINED, CHANNELS)
                if name in rows
            }
            written, rows = aligned[f"{MODEL}, {postprocess}"], rows | aligned
        write_levels(folder, levels, Embeddings(written, table), about)
        if metrics:
            about |= {"annotation": annotation, "pairs": len(known)}
            write_metrics(folder / METRICS_FILE, rows, table, about, which=metrics, pairs=known)

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


def baselines(
    saved: Saved, loaders: Mapping[str, Loader], table: pd.DataFrame
) -> dict[str, NDArray[np.float32]]:
    """What no training gives, for the same images, (n, D) each."""
    copy, channels = untrained_copy(saved, loaders)
    read = [read_features(copy, loader, split, running_statistics) for split, loader in loaders.items()]
    return {UNTRAINED: torch.cat(read).numpy(), CHANNELS: channels, POSITION: plate_position(table)}


def table_of(saved: Saved, splits: Sequence[str], annotation: str | None = None) -> pd.DataFrame:
    """The metadata of splits, one after the other, with a column of annotations if one is asked for.

    Raises:
        InputError: if there is no such column.
    """
    dataset, root, subsets = saved.setup.dataset, saved.config.data.root_dir, saved.setup.subsets
    types = control_types(dataset, root)
    table = pd.concat([metadata_of(subsets[split], split, types) for split in splits], ignore_index=True)
    if annotation is not None:
        table[annotation_column(annotation)] = annotation_of(table, dataset, root, annotation)
    return table


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
