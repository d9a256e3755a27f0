"""What is done with a split's predictions: scored, written, recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from abra_wilds.config.run import RunConfig
from abra_wilds.data.datasets.catalogue import data_digest, is_simulated, training_digest
from abra_wilds.data.samplers.passes import PassSampler
from abra_wilds.dist import is_main, on_rank_zero, started
from abra_wilds.engine.artifacts.checkpoint import Progress, load_checkpoint, read_progress, save_checkpoint
from abra_wilds.engine.artifacts.folder import RunFolder, as_trained, check_same_run, hold_folder, open_folder
from abra_wilds.engine.artifacts.logs import CsvLog, Meter, TextLog
from abra_wilds.engine.evaluation.budget import budget_of
from abra_wilds.engine.evaluation.certificates import (
    Certifying,
    certificate_line,
    certificates_path,
    write_certificates,
)
from abra_wilds.engine.evaluation.components import adapter_of
from abra_wilds.engine.evaluation.evaluate import by_cell, predict, save_predictions, score
from abra_wilds.engine.evaluation.scores import SCREEN_SCORES, ScreenScores, class_mix
from abra_wilds.engine.precision import configure_precision
from abra_wilds.engine.setup import Data, Evaluation, build_method, open_evaluation
from abra_wilds.functional.classes import balanced_accuracy
from abra_wilds.methods.base import Method
from abra_wilds.results.files import read_predictions, same_file, sha256
from abra_wilds.results.provenance import commit, versions
from abra_wilds.results.records import RESULTS, Record, append_records, results_table
from abra_wilds.tta.adapters import Adapter
from abra_wilds.tta.plan import known_controls_of, tally
from abra_wilds.types import Batch, InputError

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSSubset

Results = Mapping[str, float]


def csv_logs(setup: Evaluation, folder: RunFolder) -> dict[str, CsvLog]:
    """The two csv files of every split, as "train_eval", "train_algo" and so on."""
    names = [f"{split}_{kind}" for split in setup.subsets for kind in ("eval", "algo")]
    return {name: CsvLog(folder.path / f"{name}.csv") for name in names}


@started()
def evaluate_saved(config: RunConfig) -> list[Record]:
    """Evaluate the best saved model of `log_dir`, without val the last, or that of `eval_epoch`.

    Raises:
        InputError: if there is no such model, or it does not fit.
    """
    with hold_folder(config):
        e = config.eval
        setup = open_evaluation(config)
        folder = on_rank_zero(lambda: open_folder(config))
        config = as_trained(folder, config)
        check_same_run(folder, config, training_digest(setup.dataset, config.data.qc))
        # Without val no epoch is best, and the last one counts.
        chosen = "best" if "val" in setup.subsets else "last"
        label = chosen if e.eval_epoch is None else str(e.eval_epoch)
        return evaluate_checkpoint(config, setup, folder, folder.model(label), label)


def evaluate_checkpoint(
    config: RunConfig,
    setup: Evaluation,
    folder: RunFolder,
    checkpoint: Path,
    label: str,
    picked_by: str | None = None,
) -> list[Record]:
    """Predict with a saved model, have WILDS score it, and write everything about it into a folder.

    Args:
        config: of the run that saved it, with the evaluation that is wanted.
        setup: of the configuration.
        folder: exists; log, csv files and records in it are continued.
        checkpoint: the saved model.
        label: what the files call it.
        picked_by: the adaptation that picked the best epoch; None for the evaluation's own.

    Raises:
        InputError: if there is no such model, or it does not fit.
    """
    method, saved = load_method(config, setup, checkpoint)
    log = TextLog(folder.path / "log.txt")
    log.write(f"Evaluating {checkpoint.name}, saved after epoch {saved.epoch}")
    for line in [*adaptation_lines(config, setup), *folder.sign_lines()]:
        log.write(line)
    csvs = csv_logs(setup, folder)
    adapter = adapter_of(config.eval, config, setup, method, checkpoint, log.write)
    predictions, _ = evaluate_splits(config, setup, method, csvs, saved.epoch, adapter)
    if config.train.save_pred and is_main():
        for split, y_pred in predictions.items():
            save_predictions(folder.predictions(split, label), y_pred)
    if isinstance(adapter, Certifying) and is_main():
        for split, rows in adapter.certificates.items():
            log.write(certificate_line(split, rows))
            write_certificates(certificates_path(folder.predictions(split, label)), rows)
    spent = run_progress(replace(folder, path=checkpoint.parent).model("last"), saved)
    checkpoints = [(label, saved.epoch)]
    return on_rank_zero(lambda: conclude(config, setup, method, folder, log, spent, checkpoints, picked_by))


def load_method(config: RunConfig, setup: Data, checkpoint: Path) -> tuple[Method, Progress]:
    """A saved model on its device, and how far its run had come.

    Raises:
        InputError: if there is no such model, it does not fit, or it has no trained classifier.
    """
    method = build_method(config, setup.info, load=False).to(setup.device)
    configure_precision(method, config.speed)
    saved = load_checkpoint(checkpoint, method)
    check_classifier(config, method, checkpoint, saved)
    return method, saved


def check_classifier(config: RunConfig, method: Method, checkpoint: Path, saved: Progress) -> None:
    """Raise for a model that was saved before its classifier was trained.

    Raises:
        InputError: with the first epoch that has one.
    """
    first = config.optim.n_epochs
    if method.head_phase() is not None and saved.epoch < first:
        raise InputError(
            f"{checkpoint.name} was saved before {method.name} trained its classifier; evaluate the best or "
            f"last model, or one of epoch {first} or later"
        )


def run_progress(last: Path, saved: Progress) -> Progress:
    """What a run consumed in all, since picking an epoch took them all; until `saved` if that is lost."""
    return read_progress(last) if last.is_file() else saved


def evaluate_splits(
    config: RunConfig,
    setup: Evaluation,
    method: Method,
    csvs: Mapping[str, CsvLog],
    epoch: int,
    adapter: Adapter | None = None,
) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Predict and evaluate every split, and write its rows of the two csv files.

    Without an adapter it is that of the configuration, for the method as it is now.
    """
    predictions: dict[str, Tensor] = {}
    results: dict[str, dict[str, float]] = {}
    d, adapter = config.data, adapter or adapter_of(config.eval, config, setup, method)
    for split, loader in setup.eval_loaders.items():
        meter = Meter(setup.info.n_groups, setup.device, by_group=not config.train.no_group_logging)
        screen = screen_scores(setup, split)

        def watch(logits: Tensor, batch: Batch, meter: Meter = meter, screen: Any = screen) -> None:
            meter.add_predictions(logits, batch.target, batch.g)
            if screen is not None:
                screen.add(logits, batch.rows)

        known = known_controls_of(setup.subsets[split], config.eval)
        y_pred = predict(
            method, loader, setup.device, d.size, watch, adapter=adapter, known=known, transform=d.plain
        )
        predictions[split], results[split] = y_pred, score(setup.subsets[split], y_pred)
        meter.merge()
        if screen is not None:
            screen.merge()
            results[split] |= screen.results()
        if isinstance(adapter, Certifying):
            adapter.conclude(setup, split)
        note_evaluation(csvs, split, epoch, len(loader.sampler.whole), meter.read(), results[split])
    return predictions, results


def screen_scores(setup: Evaluation, split: str) -> ScreenScores | None:
    """What scores a split beside WILDS' own; None for RxRx1-WILDS, whose files are to be WILDS'."""
    known = hasattr(setup.dataset, "treatments")
    return ScreenScores(setup.subsets[split], setup.device) if known else None


def logged_scores(folder: RunFolder, split: str, epoch: int) -> dict[str, float]:
    """The scores of a split after an epoch, unrounded, from its csv: a run that was resumed has them too."""
    row = CsvLog(folder.path / f"{split}_eval.csv").row(epoch)
    return {name: float(value) for name, value in row.items() if value}


def note_evaluation(
    csvs: Mapping[str, CsvLog],
    split: str,
    epoch: int,
    n_batches: int,
    averages: Mapping[str, float],
    scores: Results,
) -> None:
    """Write a split's rows of the two csv files."""
    csvs[f"{split}_algo"].replace(
        {"epoch": epoch, "batch": n_batches, "objective": averages["loss_avg"], **averages}
    )
    csvs[f"{split}_eval"].replace({"epoch": epoch, **scores})


def adaptation_lines(config: RunConfig, setup: Evaluation) -> list[str]:
    """For each split a line about how many images, bio-batches and passes --tta works with."""
    samplers = {split: loader.sampler.whole for split, loader in setup.eval_loaders.items()}
    return [
        tally(sampler.plan, config.eval).line(split, config.eval)
        for split, sampler in samplers.items()
        if isinstance(sampler, PassSampler)
    ]


def save_epoch(
    config: RunConfig,
    folder: RunFolder,
    method: Method,
    optimizer: torch.optim.Optimizer,
    done: Progress,
    predictions: Mapping[str, Tensor],
    is_best: bool,
    heads: nn.Module | None = None,
    scaler: GradScaler | None = None,
    also: Sequence[str] = (),
) -> None:
    """Write an epoch's predictions and checkpoints; heads are the classifiers of the head phase.

    The last checkpoint comes last, since it says the epoch is done. The main process alone writes. `also`
    are the adaptations that this epoch is the best of; weights are stored once, whatever their names.
    """
    if not is_main():
        return
    t = config.train
    labels: list[str | int] = ["best"] if is_best and t.save_best else []
    labels += [done.epoch] if t.save_step is not None and (done.epoch + 1) % t.save_step == 0 else []
    first: Path | None = None
    for label in [*labels, *(f"best_{name}" for name in also if t.save_best)]:
        if first is None:
            save_checkpoint(folder.model(label), method, done)
            first = folder.model(label)
        else:
            same_file(first, folder.model(label))
    for label in [*labels, *(["last"] if t.save_last else [])]:
        for split, y_pred in predictions.items():
            if t.save_pred:
                save_predictions(folder.predictions(split, label), y_pred)
    if t.save_last:
        save_checkpoint(folder.model("last"), method, done, optimizer, heads, scaler)


def conclude(
    config: RunConfig,
    setup: Evaluation,
    method: Method,
    folder: RunFolder,
    log: TextLog,
    done: Progress,
    checkpoints: Iterable[tuple[str, int]],
    picked_by: str | None = None,
) -> list[Record]:
    """Append the records of the written predictions with the scores of their epochs, and print the table.

    Args:
        config: with the evaluation that was made.
        setup: of the configuration.
        method: that predicted.
        folder: of the predictions.
        log: of the folder.
        done: what the run consumed.
        checkpoints: label and epoch of each.
        picked_by: the adaptation whose accuracy on val picks the best epoch; None for the evaluation's own.
    """
    records = []
    made: Any = {"commit": commit(), "versions": versions(), "data_sha256": data_digest(setup.dataset)}
    budget = budget_of(config, setup, method, done)
    for (label, epoch), split in product(checkpoints, setup.eval_loaders):
        path = folder.predictions(split, label)
        # --save_pred false, or a best epoch that an older run did not keep.
        if not path.exists():
            continue
        records.append(
            Record(
                method=config.algorithm,
                dataset=config.data.dataset,
                simulated=is_simulated(setup.dataset),
                backbone=config.model.model,
                split=split,
                seed=config.train.seed,
                checkpoint=label,
                epoch=epoch,
                picked_by=(picked_by or config.eval.name) if label == "best" else "",
                tta=config.eval.adaptation,
                bn_stats=config.eval.bn_stats,
                bio_batch=config.data.bio_batch,
                train_loader=config.data.train_loader,
                preset=config.preset,
                predictions=path.name,
                predictions_sha256=sha256(path),
                config_sha256=config.digest(),
                wall_s=round(done.seconds, 3),
                consumed=budget,
                **recorded_scores(setup.subsets[split], logged_scores(folder, split, epoch), path),
                **made,
            )
        )
    append_records(folder.path / RESULTS, records)
    log.write("\n" + results_table(records))
    return records


def recorded_scores(subset: WILDSSubset, results: Results, predictions: Path) -> dict[str, Any]:
    """The fields of a record that say how good the predictions of a split are.

    Args:
        subset: the split.
        results: from its csv.
        predictions: the file of them.
    """
    return {
        "acc": results["acc_avg"],
        "acc_balanced": balanced_accuracy(torch.tensor(read_predictions(predictions)), subset.y_array),
        "acc_by_cell": by_cell(results),
        "acc_screen": {name: results[name] for name in SCREEN_SCORES if name in results},
        "class_mix": class_mix(subset),
        "n": len(subset),
    }
