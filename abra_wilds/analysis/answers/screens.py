"""A screen that nobody has labelled, opened for a model: its channels by name, its bio-batches in a row.

Letters: n sites, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.config.fields import default_of
from abra_wilds.config.files import screen_config
from abra_wilds.config.screen import OF_TRAINING, ScreenConfig
from abra_wilds.data.datasets.catalogue import subset_of
from abra_wilds.data.datasets.quality import FLAG, flags_of, set_apart, site_names
from abra_wilds.data.reading.images import check_images, common_shape
from abra_wilds.data.samplers.batches import RowIds, even_chunks
from abra_wilds.data.samplers.passes import BioBatch
from abra_wilds.data.screens.screen import Screen, find_sites
from abra_wilds.engine.models.model import Model
from abra_wilds.errors import InputError
from abra_wilds.tta.plan import split_plan

if TYPE_CHECKING:
    from abra_wilds.data.screens.dataset import ScreenDataset

PREFIX = "Metadata_"
MANY_PLATES = 100  # from which on a line says what --by_plate is for
Flags = NDArray[np.object_]  # (n,) of quality control, "" where nothing is wrong


def open_screen(
    model: Model, screen: str | Path, flags: Mapping[str, Any], scored: bool, there: bool = True
) -> ScreenDataset:
    """A screen with the channels of a model in its order, its images there.

    Args:
        model: that is to read it.
        screen: its table or folder.
        flags: settings of screens that go before those of its screen.yaml.
        scored: whether its labels are read, where there are some; they must then be classes of the model.
        there: whether to look for its images.

    Raises:
        InputError: for a channel that is not there, a class that the model does not know, or whatever of the
            screen cannot be used.
    """
    config = screen_config(screen, flags)
    # A screen.yaml may be that of training, whose splits and labels a new table need not have.
    config = replace(config, **{f.name: default_of(f) for f in fields(config) if f.name in OF_TRAINING})
    size = model.config.screen.image_size
    config = replace(config, image_size=config.image_size or size)
    config = replace(config, channels=tuple(f"{n}={own}" for n, own in channels_of(model, config).items()))
    opened = Screen.open(config, optional=() if "label_column" in flags else ("label_column",))
    if not scored:
        opened = replace(opened, config=replace(opened.config, label_column=None))
    dataset = opened.dataset(model.classes, labelled=False)
    check_classes(model, opened)
    if there:
        look_for_images(dataset)
    return dataset


def flags_for(dataset: ScreenDataset, qc: Path | None, e: EvalConfig) -> Flags | None:
    """What --qc says of each site of a screen; None without it.

    Raises:
        InputError: as `flags_of`, or if it leaves no image to adapt to.
    """
    if qc is None:
        return None
    flags = flags_of(site_names(dataset), qc)
    if e.tta != "none" and set_apart(flags).all():
        raise InputError(
            f"--qc {qc} flags all {len(flags):,} images of the screen, so that --tta {e.tta} would adapt to "
            "none; correct it, or leave it or --tta out"
        )
    return flags


def look_for_images(dataset: ScreenDataset) -> None:
    """Raise if an image of a screen is missing, or those of plates differ in size or depth.

    Raises:
        InputError: naming it.
    """
    check_images(dataset, range(len(dataset)))
    common_shape(dataset, dataset.one_a_plate(range(len(dataset))))


def channels_of(model: Model, config: ScreenConfig) -> dict[str, str]:
    """Name of each channel of a model -> what a screen calls it.

    Raises:
        InputError: if the screen has none of that name.
    """
    given = config.own_channels
    strangers = [name for name in given if name not in model.channels]
    if strangers:
        raise InputError(
            f"--channels names {strangers[0]}, and this model reads {', '.join(model.channels)}; give "
            "NAME=OWN with these names"
        )
    sites = find_sites(config)
    known = {name.casefold(): name for name in (*sites.other_names, *sites.channels)}
    found = {name: given.get(name) or known.get(name.casefold()) for name in model.channels}
    absent = [name for name, own in found.items() if own is None]
    if absent:
        raise InputError(
            f"this model reads {', '.join(model.channels)}, and {sites.source} has no channel {absent[0]}; "
            f"it has {', '.join(sites.channels)}, so name its own channel by --channels {absent[0]}=OWN"
        )
    return {name: str(own) for name, own in found.items()}


def check_classes(model: Model, opened: Screen) -> None:
    """Raise for a label that a model does not know.

    Raises:
        InputError: with row and column.
    """
    column = opened.config.label_column
    if column is None:
        return
    known = {"", *model.classes}
    for k, label in enumerate(opened.sites.rows[column].tolist()):
        if label not in known:
            raise InputError(
                f"column {column} has {label!r} in {opened.sites.where(k)}, which is none of the model's "
                f"{len(model.classes)} classes; correct it, or predict without labels by --unlabelled"
            )


def metadata_table(dataset: ScreenDataset, flags: Flags | None = None) -> pd.DataFrame:
    """Every metadata column of a screen, (n rows), text as it stands there; names begin with Metadata_.

    Args:
        dataset: the screen.
        flags: become the column Metadata_QC.
    """
    rows = dataset.sites.rows.reset_index(drop=True)
    table = rows.rename(columns={name: prefixed(str(name)) for name in rows.columns})
    return table if flags is None else table.assign(**{FLAG: flags})


def prefixed(name: str) -> str:
    """A column's name with Metadata_ before it."""
    return name if name.startswith(PREFIX) else f"{PREFIX}{name}"


def well_columns(dataset: ScreenDataset) -> list[str]:
    """The columns of `metadata_table` that name a well together."""
    c = dataset.config
    named = [*c.bio_batch_columns, str(c.plate_column), str(c.well_column)]
    return [prefixed(name) for name in dict.fromkeys(named)]


def plan_of_screen(
    dataset: ScreenDataset, e: EvalConfig, batch_size: int, flags: Flags | None = None
) -> list[BioBatch]:
    """The passes of each bio-batch of a screen; without adaptation batches of its order, each for itself.

    Args:
        dataset: the screen.
        e: which adaptation.
        batch_size: --batch_size.
        flags: images with a reason of their own are of no bio-batch, and nothing is adapted to them.
    """
    rows, apart = np.arange(len(dataset)), np.zeros(len(dataset), dtype=bool)
    if e.tta == "none":
        return _unadapted(rows, batch_size)
    if flags is not None:
        apart = set_apart(flags)
    counted = rows[~apart]
    plan = split_plan(subset_of(dataset, counted), e, batch_size) if len(counted) else []
    own = [BioBatch(tuple(counted[part] for part in group.passes), group.adapted) for group in plan]
    return [*own, *(_unadapted(rows[apart], batch_size) if apart.any() else ())]


def _unadapted(rows: RowIds, batch_size: int) -> list[BioBatch]:
    return [BioBatch((part,), False) for part in even_chunks(rows, batch_size)]


def size_note(model: Model, shape: Sequence[int]) -> list[str]:
    """A sentence where images have another size than those of training, and are not resized to one."""
    trained, now = list(model.about["data"]["image_size"]), list(shape[1:])
    if model.config.data.size is not None or not trained or trained == now:
        return []
    return [
        f"images are {now[0]} x {now[1]} pixels, and those of training were {trained[0]} x {trained[1]}; "
        "cells look larger or smaller to the model unless --image_size makes them alike"
    ]


def memory_note(model: Model, dataset: ScreenDataset) -> list[str]:
    """A sentence where so many plates are predicted at once that they had better be predicted one by one."""
    plates = len(dataset.metadata_array[:, 1:3].unique(dim=0))
    if plates < MANY_PLATES:
        return []
    # Logits and features, in float32.
    size = 4 * len(dataset) * (model.method.head.in_features + len(model.classes)) / 2**30
    return [
        f"what is said of all {plates:,} plates stays in memory until the last one is predicted, {size:.1f} "
        "GB and tables, and is lost where the command is killed; --by_plate writes plate by plate, needs no "
        "more memory for more plates, and goes on after a kill"
    ]
