"""`abra-wilds embed --screen`: features of a screen's sites and wells, and the known classes nearest to them.

Letters: n sites, D features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from abra_wilds.analysis.answers.answers import answers_of
from abra_wilds.analysis.answers.predict import about_answers, say, write_csv, write_table
from abra_wilds.analysis.answers.screens import (
    Flags,
    flags_for,
    memory_note,
    metadata_table,
    open_screen,
    size_note,
    well_columns,
)
from abra_wilds.analysis.answers.tables import counted_in_wells, nearest_classes, wells_of_screen
from abra_wilds.analysis.held_out import check_held_out
from abra_wilds.analysis.postprocess import check_controls, postprocessed
from abra_wilds.analysis.profiles import feature_names, well_means, write_profiles
from abra_wilds.config.schema import jsonable
from abra_wilds.data.reading.images import read_image
from abra_wilds.engine.evaluation.saved import refuse_existing
from abra_wilds.engine.models.model import Model
from abra_wilds.errors import InputError
from abra_wilds.results.files import all_or_none, atomic_write, make_out, write_text
from abra_wilds.results.records import CONFIG
from abra_wilds.tta.features import check_embeds

if TYPE_CHECKING:
    from abra_wilds.data.screens.dataset import ScreenDataset

LEVELS = {"site": "sites", "well": "wells"}
FLAGGED = "Metadata_Flagged_Sites"


def embed_screen(
    model: Model,
    screen: str | Path,
    flags: Mapping[str, Any],
    out: Path,
    *,
    levels: Sequence[str] = tuple(LEVELS),
    qc: Path | None = None,
    postprocess: str = "none",
    h5ad: bool = False,
) -> None:
    """Write the features of a screen, as parquet and if asked .h5ad, and the nearest classes of its wells.

    Args:
        model: of these channels.
        screen: its table or folder.
        flags: settings of the screen.
        out: the folder.
        levels: which of LEVELS.
        qc: table of `abra-wilds qc`, whose flagged sites do not count in wells that have others, nor in what
            is adapted to or aligned on.
        postprocess: aligns bio-batches on control wells, before sites are averaged.
        h5ad: whether to write files for scanpy too.

    Raises:
        InputError: if the screen does not fit the model or the post-processing, or files would be
            overwritten.
    """
    e = model.config.eval
    check_embeds(e.tta)
    kinds = ["parquet", *(["h5ad"] if h5ad else [])]
    names = [CONFIG, *(f"{level}.{kind}" for level in levels for kind in kinds)]
    names += [f"nearest.{kind}" for kind in ("parquet", "csv") if model.centroids is not None]
    if h5ad:
        anndata_package()
    refuse_existing(out, names)
    dataset = open_screen(model, screen, flags, scored=False)
    quality = flags_for(dataset, qc, e)
    metadata, well, wells = sites_and_wells(dataset, quality)
    counted, batch = counted_in_wells(well, quality), bio_batches_of(dataset)
    controls = dataset.controls
    if controls is not None and quality is not None:
        controls = controls & (quality == "")
    check_controls(postprocess, batch, controls, well)
    say([*dataset.notes, *size_note(model, read_image(dataset, 0).shape), *memory_note(model, dataset)])
    features = answers_of(model, dataset, e, flags=quality).features.numpy()
    tables = {}
    if model.centroids is not None:
        tables["nearest"] = nearest_of(model, well_means(features, well, counted), wells)
    if postprocess != "none" and controls is not None:
        say([f"{postprocess}: {check_held_out(postprocess, features, batch, controls, well)}"])
        features = postprocessed(postprocess, features, batch, controls)
    means = well_means(features, well, counted)
    profiles = {"site": (features, metadata), "well": (means, wells)}
    about = jsonable({**about_answers(model, dataset, qc), "postprocess": postprocess})
    make_out(out)
    with all_or_none(out / name for name in names):
        for level in levels:
            write_profiles(out / f"{level}.parquet", *profiles[level], {**about, "level": level})
            if h5ad:
                write_h5ad(out / f"{level}.h5ad", *profiles[level], {**about, "level": level})
        for name, table in tables.items():
            write_table(out / f"{name}.parquet", table)
            write_csv(out / f"{name}.csv", table)
        write_text(out / CONFIG, json.dumps(about, indent=2) + "\n")
    counts = ", ".join(f"{len(profiles[level][0]):,} {LEVELS[level]}" for level in levels)
    say([f"wrote {out}: {counts} x {features.shape[1]:,} features"])


def bio_batches_of(dataset: ScreenDataset) -> NDArray[np.object_]:
    """The name of each site's bio-batch, (n,)."""
    names = np.array(dataset.metadata_map["experiment"], dtype=object)
    found: NDArray[np.object_] = names[dataset.metadata_array[:, 1].numpy()]
    return found


def sites_and_wells(
    dataset: ScreenDataset, flags: Flags | None
) -> tuple[pd.DataFrame, NDArray[np.int64], pd.DataFrame]:
    """Metadata of sites (n rows), the number of each one's well (n,), and metadata of wells (W rows)."""
    metadata = metadata_table(dataset, flags)
    well, wells = wells_of_screen(metadata, well_columns(dataset))
    if flags is not None:
        wells[FLAGGED] = np.bincount(well[flags != ""], minlength=len(wells))
    return metadata, well, wells


def nearest_of(model: Model, means: NDArray[np.float32], wells: pd.DataFrame) -> pd.DataFrame:
    """The known classes that are nearest to the mean features (W, D) of each well, with its metadata."""
    if model.centroids is None:
        raise ValueError("this model has no centroids")
    found = nearest_classes(torch.from_numpy(means), model.centroids, model.classes)
    return pd.concat([wells, found], axis=1)


def anndata_package() -> Any:
    """The package anndata.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return import_module("anndata")
    except ModuleNotFoundError:
        raise InputError(
            "--h5ad needs the package anndata, which is not installed; run `pip install 'abra-wilds[h5ad]'`"
        ) from None


def write_h5ad(
    path: Path, features: NDArray[np.float32], table: pd.DataFrame, about: Mapping[str, Any]
) -> None:
    """Write features as X, metadata as obs and where they come from as uns["abra_wilds"], a JSON text."""
    names = pd.DataFrame(index=pd.Index(feature_names(features.shape[1])))
    obs = table.set_index(pd.Index(map(str, range(len(table)))))
    found = anndata_package().AnnData(features, obs=obs, var=names, uns={"abra_wilds": json.dumps(about)})
    with atomic_write(path) as temporary:
        found.write_h5ad(temporary)
