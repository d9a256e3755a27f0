"""`abra-wilds predict --screen`: sites and wells of a screen by name, with what they are worth.

Letters: n sites.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from abra_wilds.analysis.answers.answers import Answers, answers_of
from abra_wilds.analysis.answers.screens import (
    Flags,
    flags_for,
    memory_note,
    metadata_table,
    open_screen,
    prefixed,
    size_note,
    well_columns,
)
from abra_wilds.analysis.answers.tables import (
    agreement,
    calibrated,
    counted_in_wells,
    predicted_columns,
    well_log_probs,
    wells_of_screen,
)
from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.config.schema import jsonable
from abra_wilds.data.datasets.catalogue import data_digest
from abra_wilds.data.reading.images import read_image
from abra_wilds.engine.evaluation.certificates import PlateCertificate, certificate_line
from abra_wilds.engine.evaluation.saved import refuse_existing
from abra_wilds.engine.models.model import Model
from abra_wilds.results.files import all_or_none, atomic_write, csv_text, make_out, sha256, write_text
from abra_wilds.results.provenance import commit, versions
from abra_wilds.results.records import CONFIG

if TYPE_CHECKING:
    from abra_wilds.data.screens.dataset import ScreenDataset

LEVELS = ("sites", "wells")


def site_and_well_tables(
    model: Model, dataset: ScreenDataset, found: Answers, e: EvalConfig, flags: Flags | None
) -> dict[str, pd.DataFrame]:
    """The tables "sites" and "wells": metadata, names and probabilities, and what they are worth.

    Args:
        model: that predicted.
        dataset: the screen.
        found: what it said.
        e: which adaptation.
        flags: flagged sites do not count in wells that have others. None where nothing is known.
    """
    metadata = metadata_table(dataset, flags)
    flagged = np.zeros(len(metadata), dtype=bool) if flags is None else flags != ""
    log_probs = calibrated(found.logits, found.temperature)
    worth = worth_columns(found, e)
    well, wells = wells_of_screen(metadata, well_columns(dataset))
    # A flagged site says nothing of a well that has others.
    order = np.argsort(flagged, kind="stable")
    of_wells = worth.iloc[order[np.unique(well[order], return_index=True)[1]]].reset_index(drop=True)
    if flags is not None:
        of_wells["Flagged_Sites"] = np.bincount(well, flagged).astype(int)
    joint = well_log_probs(log_probs, well, counted_in_wells(well, flags))
    return {
        "sites": pd.concat([metadata, predicted_columns(log_probs, model.classes), worth], axis=1),
        "wells": pd.concat([wells, predicted_columns(joint, model.classes), of_wells], axis=1),
    }


def worth_columns(found: Answers, e: EvalConfig) -> pd.DataFrame:
    """What the predictions of each site rest on, (n rows)."""
    columns: dict[str, Any] = {
        "Adaptation": np.where(found.statistics.numpy() > 0, e.name, "none").astype(object),
        "Statistics_Images": found.statistics.numpy(),
        "Calibrated": (found.of >= 0).numpy(),
    }
    if e.needs_components:
        # One more row for sites without a certificate.
        known = [field.name for field in fields(PlateCertificate)]
        rows = pd.DataFrame([asdict(row) for row in found.certificates], columns=known)
        rows = rows.reindex(range(len(found.certificates) + 1))
        of = torch.where(found.of < 0, len(found.certificates), found.of).numpy()
        names = {"accuracy": "Accuracy", "low": "Accuracy_Low", "high": "Accuracy_High", "trusted": "Trusted"}
        names |= {"advice": "Advice"}
        for name, column in names.items():
            columns[f"Bio_Batch_{column}"] = rows[name].to_numpy(dtype=object)[of]
    return pd.DataFrame(columns)


def scores_of(dataset: ScreenDataset, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Scores of sites, and of wells whose sites have one label; empty where the screen has no labels."""
    if dataset.config.label_column is None or not bool((dataset.y_array >= 0).any()):
        return {}
    column = prefixed(dataset.config.label_column)
    return {
        level: agreement(table["Predicted"].tolist(), [text or None for text in table[column]])
        for level, table in tables.items()
        if column in table
    }


def predict_screen(
    model: Model,
    screen: str | Path,
    flags: Mapping[str, Any],
    out: Path,
    scored: bool = True,
    qc: Path | None = None,
) -> dict[str, pd.DataFrame]:
    """Predict a screen, and write its tables into a folder; returns them.

    The folder has sites and wells as parquet and csv, certificates.csv where the model certifies, and
    config.json with the model, the settings and scores.

    Args:
        model: of these channels.
        screen: its table or folder.
        flags: settings of the screen.
        out: the folder.
        scored: whether labels are read where there are some.
        qc: table of `abra-wilds qc`, whose flagged sites do not count in wells that have others, nor in what
            is adapted to.

    Raises:
        InputError: if the screen does not fit the model, or files would be overwritten.
    """
    e = model.config.eval
    names = [f"{level}.{kind}" for level in LEVELS for kind in ("parquet", "csv")]
    names += [CONFIG, *(["certificates.csv"] if e.needs_components else [])]
    refuse_existing(out, names)
    dataset = open_screen(model, screen, flags, scored)
    flagged = flags_for(dataset, qc, e)
    say([*dataset.notes, *size_note(model, read_image(dataset, 0).shape), *memory_note(model, dataset)])
    found = answers_of(model, dataset, e, flags=flagged)
    tables = site_and_well_tables(model, dataset, found, e, flagged)
    scores = scores_of(dataset, tables)
    make_out(out)
    with all_or_none(out / name for name in names):
        for level, table in tables.items():
            write_table(out / f"{level}.parquet", table)
            write_csv(out / f"{level}.csv", table)
        if found.certificates:
            write_text(out / "certificates.csv", csv_text([asdict(row) for row in found.certificates]))
        about = {**about_answers(model, dataset, qc), "scores": scores}
        write_text(out / CONFIG, json.dumps(jsonable(about), indent=2) + "\n")
    say(lines_about(out, tables, scores, found))
    return tables


def about_answers(model: Model, dataset: ScreenDataset, qc: Path | None) -> dict[str, Any]:
    """What config.json of a folder of answers says: the model, the screen, its flags, the adaptation."""
    c = dataset.config
    label = None if c.label_column is None else prefixed(c.label_column)
    return {
        "predictions_of": model.about["run"]["digest"],
        "model": {**model.about["checkpoint"], "data": model.about["data"]["name"]},
        "simulated_training": model.about["data"]["simulated"],
        "screen": {
            "source": dataset.sites.source.name,
            "digest": data_digest(dataset),
            "sites": len(dataset),
            "bio_batch": [prefixed(name) for name in c.bio_batch_columns],
            "plate": prefixed(str(c.plate_column)),
            "well": prefixed(str(c.well_column)),
            "label": label,
        },
        "qc": None if qc is None else sha256(qc),
        "channels": dataset.config.own_channels,
        "settings": model.config.values(local=False),
        "tta": model.config.eval.adaptation,
        "commit": commit(),
        "versions": versions(),
    }


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet, whole or not at all."""
    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), temporary)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as csv, whole or not at all; no text of it is a formula to a spreadsheet."""
    write_text(path, csv_text([{str(k): v for k, v in row.items()} for row in table.to_dict("records")]))


def lines_about(
    out: Path, tables: Mapping[str, pd.DataFrame], scores: Mapping[str, Any], found: Answers
) -> list[str]:
    """What was written, for people."""
    lines = [f"wrote {out}: " + ", ".join(f"{len(table):,} {level}" for level, table in tables.items())]
    if found.certificates:
        lines.append(certificate_line("the screen", found.certificates))
    for level, s in scores.items():
        if s:
            lines.append(
                f"{level} with a label: {s['n']:,}, accuracy {s['accuracy']:.1%}, balanced "
                f"{s['balanced_accuracy']:.1%}"
            )
    return lines


def say(lines: Iterable[str]) -> None:
    """Print lines."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
