"""A screen that nobody has labelled, opened for a model: its channels by name, its bio-batches in a row.

Letters: n sites, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.config.files import screen_config
from abra_wilds.config.screen import ScreenConfig
from abra_wilds.data.reading.images import check_images, common_shape
from abra_wilds.data.samplers.batches import even_chunks
from abra_wilds.data.samplers.passes import BioBatch
from abra_wilds.data.screens.screen import Screen, find_sites
from abra_wilds.engine.models.model import Model
from abra_wilds.errors import InputError
from abra_wilds.tta.plan import split_plan

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSSubset

    from abra_wilds.data.screens.dataset import ScreenDataset

PREFIX = "Metadata_"


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
    size = model.config.screen.image_size
    config = replace(config, image_size=config.image_size or size)
    config = replace(config, channels=tuple(f"{n}={own}" for n, own in channels_of(model, config).items()))
    opened = Screen.open(config)
    if not scored:
        opened = replace(opened, config=replace(opened.config, label_column=None))
    dataset = opened.dataset(model.classes, labelled=False)
    check_classes(model, opened)
    if there:
        look_for_images(dataset)
    return dataset


def look_for_images(dataset: ScreenDataset) -> None:
    """Raise if an image of a screen is missing, or the first cannot be read.

    Raises:
        InputError: naming it.
    """
    check_images(dataset, range(len(dataset)))
    common_shape(dataset, [0])


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
    known = {name.casefold(): name for name in sites.channels}
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


def metadata_table(dataset: ScreenDataset) -> pd.DataFrame:
    """Every metadata column of a screen, (n rows), text as it stands there; names begin with Metadata_."""
    rows = dataset.sites.rows.reset_index(drop=True)
    return rows.rename(columns={name: prefixed(str(name)) for name in rows.columns})


def prefixed(name: str) -> str:
    """A column's name with Metadata_ before it."""
    return name if name.startswith(PREFIX) else f"{PREFIX}{name}"


def well_columns(dataset: ScreenDataset) -> list[str]:
    """The columns of `metadata_table` that name a well together."""
    c = dataset.config
    named = [*c.bio_batch_columns, str(c.plate_column), str(c.well_column)]
    return [prefixed(name) for name in dict.fromkeys(named)]


def plan_of_screen(subset: WILDSSubset, e: EvalConfig, batch_size: int) -> list[BioBatch]:
    """The passes of each bio-batch of a screen; without adaptation batches of its order, each for itself."""
    if e.tta != "none":
        return split_plan(subset, e, batch_size)
    return [BioBatch((rows,), False) for rows in even_chunks(np.arange(len(subset)), batch_size)]


def size_note(model: Model, shape: Sequence[int]) -> list[str]:
    """A sentence where images have another size than those of training, and are not resized to one."""
    trained, now = list(model.about["data"]["image_size"]), list(shape[1:])
    if model.config.data.size is not None or not trained or trained == now:
        return []
    return [
        f"images are {now[0]} x {now[1]} pixels, and those of training were {trained[0]} x {trained[1]}; "
        "cells look larger or smaller to the model unless --image_size makes them alike"
    ]
