"""`abra-wilds audit`: a saved model and its screen, asked for shortcuts on bio-batches that it has not seen.

Letters: n images, W wells, O classes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from abra_wilds.analysis.audit.pictures import CHANGES
from abra_wilds.analysis.audit.shortcuts import PLAIN, AuditWells, Verdict, audited, p_text, paired
from abra_wilds.analysis.embed import table_of
from abra_wilds.analysis.metrics.baselines import channel_statistics
from abra_wilds.analysis.postprocess import Floats
from abra_wilds.analysis.profiles import TREATED_WELL, controls_of, well_means, wells_of
from abra_wilds.analysis.saved import Saved, open_saved
from abra_wilds.data.reading.loaders import Loader, make_eval_loader
from abra_wilds.dist import on_rank_zero, started, sum_across_ranks
from abra_wilds.engine.evaluation.components import adapter_of
from abra_wilds.engine.evaluation.evaluate import predict
from abra_wilds.engine.evaluation.saved import make_folder
from abra_wilds.engine.setup import evaluation_loaders, reading_kwargs
from abra_wilds.errors import InputError
from abra_wilds.results.files import all_or_none, write_text
from abra_wilds.results.provenance import commit, versions
from abra_wilds.results.records import aligned
from abra_wilds.tta.plan import known_controls_of
from abra_wilds.types import Batch

AUDIT_FILE = "audit.json"


class Altered(Loader):
    """A loader whose images are changed on the host, after they are read."""

    def __init__(self, loader: Loader, change: Callable[[Tensor], Tensor]):
        self.__dict__.update(vars(loader))
        self._change = change

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            yield replace(batch, x=self._change(batch.x))


@started()
def audit_saved(
    checkpoint: Path,
    split: str = "test",
    flags: Mapping[str, Any] | None = None,
    *,
    channel: int = 0,
    out: Path | None = None,
) -> list[Verdict]:
    """Print and write what shortcuts say of the classes of new bio-batches, beside the model.

    Args:
        checkpoint: a model file of a run, with the run's config.json beside it.
        split: of bio-batches that training has not seen.
        flags: those of `config.PREDICTION_FLAGS` that differ from the run's.
        channel: from 0, whose foreground share is the density.
        out: the folder; None for one beside the checkpoint.

    Raises:
        InputError: if anything does not fit, would be overwritten, or the split is of training bio-batches.
    """
    saved = open_saved(checkpoint, flags, splits=["train", split])
    if not 0 <= channel < saved.setup.shape[0]:
        raise InputError(
            f"--density_channel {channel + 1} is none of the {saved.setup.shape[0]} channels; count from 1"
        )
    tables = {name: table_of(saved, [name]) for name in ("train", split)}
    check_new(tables, split)
    folder = out or saved.folder.path / f"audit_{saved.label}_{saved.config.eval.adaptation or 'none'}"
    on_rank_zero(lambda: make_folder(folder, [AUDIT_FILE]))
    wells = {name: audit_wells(saved, name, table) for name, table in tables.items()}
    shown = shown_to(saved, split, tables[split])

    def write() -> list[Verdict]:
        verdicts = audited(wells["train"], wells[split], shown, channel)
        right = {name: p.argmax(1) == wells[split].label for name, p in shown.items()}
        rows = [shown_row(name, own, right[PLAIN]) for name, own in right.items()]
        content = {
            **saved.about(),
            "tta": saved.config.eval.adaptation,
            "split": split,
            "wells": len(wells[split].label),
            "model": rows,
            "verdicts": [asdict(v) for v in verdicts],
            "commit": commit(),
            "versions": versions(),
        }
        write_text(folder / AUDIT_FILE, json.dumps(content, indent=2) + "\n")
        sys.stdout.write(audit_text(rows, verdicts, split, len(wells[split].label)))
        return verdicts

    with all_or_none([folder / AUDIT_FILE]):
        verdicts: list[Verdict] = on_rank_zero(write)
    return verdicts


def check_new(tables: Mapping[str, pd.DataFrame], split: str) -> None:
    """Raise where bio-batches of a split are those of training.

    Raises:
        InputError: naming one.
    """
    seen = set(tables["train"]["Metadata_Batch"]) & set(tables[split]["Metadata_Batch"])
    if seen:
        raise InputError(
            f"--split {split} has experiments of the training split, {min(seen)} among them, and an audit "
            "asks new ones; give another split"
        )


def treated(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Which wells of a table (W rows) are of treatments: the places of controls are often fixed."""
    control = controls_of(table)
    return np.ones(len(table), dtype=bool) if control is None else ~control


def audit_wells(saved: Saved, split: str, table: pd.DataFrame) -> AuditWells:
    """The treatment wells of a split, with the statistics of their images as they are."""
    subset, d = saved.setup.subsets[split], saved.config.data
    reading = reading_kwargs(d, saved.setup.device)
    loader = make_eval_loader(
        subset, saved.setup.grouper, eval_loader=d.eval_loader, batch_size=d.batch_size, **reading
    )
    found = torch.zeros(len(subset), 3 * saved.setup.shape[0])
    for batch in loader:
        found[batch.rows] = channel_statistics(batch.x)
    well, wells = wells_of(table, TREATED_WELL)
    statistics = well_means(sum_across_ranks(found.to(saved.setup.device)).cpu().numpy(), well)
    experiment, position = (wells[f"Metadata_{name}"].to_numpy(dtype=object) for name in ("Batch", "Well"))
    plates = zip(wells["Metadata_Plate"], experiment, strict=True)
    plate = np.array([name.removeprefix(f"{own}_") for name, own in plates], dtype=object)
    label = wells["Metadata_sirna_id"].to_numpy()
    return AuditWells(label, experiment, plate, position, statistics).of(treated(wells))


def shown_to(saved: Saved, split: str, table: pd.DataFrame) -> dict[str, Floats]:
    """How images are shown -> the model's probabilities (W, O) of treatment wells.

    A well's are those of the mean log-probability of its sites.
    """
    (loader,) = evaluation_loaders(saved.config, saved.setup, [split]).values()
    well, wells = wells_of(table, TREATED_WELL)
    found = {}
    for name, change in {PLAIN: None, **CHANGES}.items():
        logs = log_probabilities(saved, loader if change is None else Altered(loader, change), split)
        means = torch.from_numpy(well_means(logs.numpy(), well)[treated(wells)])
        found[name] = means.softmax(1).numpy()
    return found


def log_probabilities(saved: Saved, loader: Loader, split: str) -> Tensor:
    """The model's log-probabilities (n, O) of a split on the host, in dataset order, adapted by --tta."""
    setup, config, checkpoint = saved.setup, saved.config, saved.folder.model(saved.label)
    adapter = adapter_of(config.eval, config, setup, saved.method, checkpoint)
    logs = torch.zeros(len(loader.rows), setup.info.n_classes, device=setup.device)

    def watch(logits: Tensor, batch: Batch) -> None:
        logs[batch.rows] = logits.log_softmax(1)

    known = known_controls_of(setup.subsets[split], config.eval)
    predict(saved.method, loader, setup.device, config.data.size, watch, adapter=adapter, known=known)
    return sum_across_ranks(logs).cpu()  # each row is one process's


def shown_row(name: str, right: NDArray[np.bool_], plain: NDArray[np.bool_]) -> dict[str, Any]:
    """The model's accuracy on images shown in one way, against images as they are."""
    difference, p = paired(right, plain)
    return {"shown": name, "accuracy": float(right.mean()), "difference": difference, "p": p}


def audit_text(rows: Sequence[Mapping[str, Any]], verdicts: Sequence[Verdict], split: str, W: int) -> str:
    """The two tables and the verdicts, as the command prints them."""
    model = [["model, images", "accuracy", "difference", "p"]]
    for r in rows:
        shift = f"{100 * r['difference']:+.1f}"
        model.append(
            [
                r["shown"],
                f"{100 * r['accuracy']:.1f} %",
                shift,
                p_text(r["p"]).removeprefix("p ").removeprefix("= "),
            ]
        )
    alone = [["alone", "accuracy", "chance", "p", "Holm", "verdict"]]
    for v in verdicts:
        said = "found" if v.found else "not found"
        numbers = (f"{100 * v.accuracy:.1f} %", f"{100 * v.chance:.1f} %", f"{v.p:.3f}", f"{v.adjusted:.3f}")
        alone.append([v.shortcut, *numbers, said])
    title = f"{W:,} treatment wells of {split}"
    return "\n".join([title, aligned(model), aligned(alone), *map(str, verdicts)]) + "\n"
