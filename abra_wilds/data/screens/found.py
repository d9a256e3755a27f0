"""What `abra-wilds screen init` writes: the settings of a screen as its columns suggest them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import yaml

from abra_wilds.config.fields import default_of
from abra_wilds.config.screen import ScreenConfig
from abra_wilds.data.screens.screen import Screen

# Columns that mean a class, a cell line or what is kept together in many screens, in lower case.
LABELS = (
    "label",
    "phenotype",
    "jcp2022",
    "broad_sample",
    "perturbation",
    "treatment",
    "compound",
    "drug",
    "gene",
)
LINES = ("cell_line", "cellline", "cell_type", "cell")
TOGETHER = ("frame",)
LEAST_BIO_BATCHES = 4  # with which splits are drawn
WHOLE = (
    "each is a bio-batch to ABRA without --groupby_fields experiment, and to --tta without --tta_group "
    "experiment"
)
SPLIT = ("test=0.2", "val=0.1", "seed=0")


def proposed(screen: Screen) -> dict[str, Any]:
    """Settings that differ from the defaults, by name: what is given or known, and what columns suggest."""
    config, rows = screen.config, screen.sites.rows
    found = {
        f.name: getattr(config, f.name)
        for f in fields(ScreenConfig)
        if f.name != "screen" and getattr(config, f.name) != default_of(f)
    }
    for field, known in (("label_column", LABELS), ("cell_line_column", LINES), ("keep_together", TOGETHER)):
        column = _suggested(rows, known)
        if field not in found and column is not None:
            found[field] = column
    n = rows[list(config.bio_batch_columns)].drop_duplicates().shape[0]
    if "label_column" in found and not {"split", "split_column"} & set(found) and n >= LEAST_BIO_BATCHES:
        found["split"] = SPLIT
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _suggested(rows: pd.DataFrame, known: tuple[str, ...]) -> str | None:
    """The first column with one of some names and more than one value."""
    plain = {str(name).removeprefix("Metadata_").lower(): str(name) for name in rows}
    names = [plain[name] for name in known if name in plain]
    return next((name for name in names if rows[name].nunique() > 1), None)


def settings_text(values: dict[str, Any]) -> str:
    """The settings as the text of a screen.yaml."""
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)


def summary(screen: Screen) -> list[str]:
    """How much the screen has of what, a line each."""
    sites, config = screen.sites, screen.config
    sizes = sites.rows.groupby(list(config.bio_batch_columns)).size().to_numpy()
    columns = [name for name in sites.rows if name not in config.bio_batch_columns]
    plates = len(sites.rows[[*config.bio_batch_columns, str(config.plate_column)]].drop_duplicates())
    return [
        f"{sites.source}: {len(sites):,} sites",
        f"channels: {', '.join(sites.channels)}",
        f"bio-batches by {', '.join(config.bio_batch_columns)}: {len(sizes):,} of {sizes.min():,} to "
        f"{sizes.max():,} images, {int(np.median(sizes)):,} in the median",
        *([] if plates == len(sizes) else [f"plates in them: {plates:,}; {WHOLE}"]),
        *(f"  {name}: {_values(sites.rows[name])}" for name in columns),
        *screen.notes,
    ]


def _values(column: pd.Series[str], most: int = 4) -> str:
    distinct = list(dict.fromkeys(column))
    shown = ", ".join(repr(value) for value in distinct[:most])
    return f"{len(distinct):,} values, {shown}{', ...' if len(distinct) > most else ''}"
