"""The training loop, top to bottom, and the evaluation of saved models."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from abra_wilds.config import RunConfig
from abra_wilds.data.mixing import cutmix
from abra_wilds.data.transforms import augment
from abra_wilds.data.wilds_data import is_simulated
from abra_wilds.engine.checkpoint import Progress, load_checkpoint, save_checkpoint
from abra_wilds.engine.folder import RunFolder, check_same_run, open_folder, write_config
from abra_wilds.engine.logs import CsvLog, Guard, Meter, TextLog
from abra_wilds.engine.schedule import learning_rate, make_optimizer, set_learning_rate
from abra_wilds.engine.setup import Setup, build_method, prepare
from abra_wilds.engine.step import step
from abra_wilds.engine.trackers import make_tracker
from abra_wilds.evaluate import by_cell, evaluate, plain_images, predict, read_predictions, reestimate_bn, save_predictions
from abra_wilds.files import sha256
from abra_wilds.methods.base import Method
from abra_wilds.provenance import commit, versions
from abra_wilds.records import RESULTS, Record, append_records, results_table
from abra_wilds.types import Batch, StepContext

Results = Mapping[str, float]


def fit(config: RunConfig) -> list[Record]:
    """Train, evaluate after every epoch, and leave WILDS' files and ours in `log_dir`.

    Returns:
        The records of the best and the last epoch's predictions.

    Raises:
        InputError: before training, for whatever cannot be used.
        Diverged: at a loss that is not finite; the checkpoints of earlier epochs stay.
    """
    t, o, e, d = config.train, config.optim, config.eval, config.data
    setup = prepare(config)
    device, loader = setup.device, setup.train_loader
    method = build_method(config, setup.info, load=not t.resume or not e.eval_only).to(device)
    optimizer = make_optimizer(o, method.parameters())
    folder = open_folder(config)

    done = Progress()
    if t.resume:
        check_same_run(folder, config)
        if folder.model("last").exists():
            done = load_checkpoint(folder.model("last"), method, optimizer)
    log = TextLog(folder.path / "log.txt")
    csvs = {f"{s}_{kind}": CsvLog(folder.path / f"{s}_{kind}.csv") for s in setup.subsets for kind in ("eval", "algo")}
    for csv in csvs.values():
        csv.keep_through(done.epoch)
    write_config(folder, config)
    tracker = make_tracker(t.tracker, folder.path)
    log.write(opening(config, setup, done))

    guard = Guard(setup.grouper.group_str)
    meter = Meter(setup.info.n_groups, device, by_group=not t.no_group_logging)
    accumulate = o.gradient_accumulation_steps
    steps_per_epoch = setup.steps_per_epoch(accumulate)
    bar = tqdm(
        total=o.n_epochs * loader.images_per_epoch,
        initial=(done.epoch + 1) * loader.images_per_epoch,
        unit="img",
        smoothing=0.05,
        disable=None if t.progress_bar is None else not t.progress_bar,
    )

    for epoch in range(done.epoch + 1, o.n_epochs):
        began = time.monotonic()
        draws, rng = seed_epoch(t.seed, epoch)
        loader.set_epoch(epoch)
        method.train()
        y_pred, y_rows = [], []
        bar.set_description(f"epoch {epoch}")
        for i, batch in enumerate(loader):
            take = (i + 1) % accumulate == 0 or i + 1 == len(loader)
            window = min(accumulate, len(loader) - i // accumulate * accumulate)
            number = i // accumulate
            global_step = epoch * steps_per_epoch + number
            log_now = take and (number + 1) % t.log_every == 0
            lr = learning_rate(o, global_step, steps_per_epoch)
            set_learning_rate(optimizer, lr)
            method.context = StepContext(lr, log_now or i + 1 == len(loader))

            groups = batch.g[torch.stack([rows[0] for rows in batch.groups])].tolist()
            batch = batch.to(device)
            batch = replace(batch, x=augment(batch.x, d.transform, draws, d.size))
            if d.mix == "cutmix":
                batch = cutmix(batch, rng, d.cutmix_alpha, d.cutmix_prob)
            out = step(method, batch, optimizer, 1 / window, take, o.max_grad_norm)

            meter.update(out, batch)
            guard.note(global_step, lr, groups, out)
            y_pred.append(out.logits.detach().argmax(1))
            y_rows.append(batch.rows)
            bar.update(len(batch))
            if log_now or i + 1 == len(loader):
                guard.check(kept(folder, epoch))
                row = {"epoch": epoch, "batch": number + 1, "lr": lr, **meter.read()}
                meter.reset()
                csvs["train_algo"].write(row)
                tracker.write("train", row, global_step)
                bar.set_postfix_str(f"loss {row['objective']:.3f} acc {row['acc_avg']:.3f}")

        train_results = evaluate_rows(setup, torch.cat(y_pred).cpu(), torch.cat(y_rows).cpu())
        csvs["train_eval"].write({"epoch": epoch, **train_results})

        if e.bn_stats == "precise":
            reestimate_bn(method, method.features, plain_images(loader, device, d.size))
        predictions, results = evaluate_splits(config, setup, method, csvs, epoch)
        value = results["val"][e.val_metric]
        is_best = done.best_val_metric is None or better(value, done.best_val_metric, e.val_metric_decreasing)
        done = Progress(
            epoch,
            value if is_best else done.best_val_metric,
            epoch if is_best else done.best_epoch,
            done.seconds + time.monotonic() - began,
        )
        save_epoch(config, folder, method, optimizer, done, predictions, is_best)
        for split, found in results.items():
            tracker.write(split, found, global_step)
        accs = "  ".join(f"{split} {found['acc_avg']:.3f}" for split, found in results.items())
        log.write(f"Epoch {epoch}: train {train_results['acc_avg']:.3f}  {accs}{'  (best so far)' if is_best else ''}")

    bar.close()
    tracker.close()
    return conclude(config, setup, folder, log, done, [("best", done.best_epoch), ("last", done.epoch)])


def evaluate_saved(config: RunConfig) -> list[Record]:
    """Evaluate the best, or with `eval_epoch` another, saved model of `log_dir` and write its predictions.

    Raises:
        InputError: if there is no such model, or it does not fit.
    """
    e = config.eval
    setup = prepare(config)
    method = build_method(config, setup.info, load=False).to(setup.device)
    folder = open_folder(config)
    label = "best" if e.eval_epoch is None else str(e.eval_epoch)
    saved = load_checkpoint(folder.model(label), method)
    log = TextLog(folder.path / "log.txt")
    log.write(f"Evaluating {folder.model(label).name}, saved after epoch {saved.epoch}")
    csvs = {f"{s}_{kind}": CsvLog(folder.path / f"{s}_{kind}.csv") for s in setup.subsets for kind in ("eval", "algo")}
    predictions, _ = evaluate_splits(config, setup, method, csvs, saved.epoch)
    if config.train.save_pred:
        for split, y_pred in predictions.items():
            save_predictions(folder.predictions(split, label), y_pred)
    return conclude(config, setup, folder, log, saved, [(label, saved.epoch)])


def seed_epoch(seed: int, epoch: int) -> tuple[torch.Generator, np.random.Generator]:
    """Make everything random in an epoch a function of (seed, epoch): an epoch can be run again from its start.

    Returns:
        The generators of augmentation and of mixing; methods draw from torch's default one, seeded here too.
    """
    noise, augmentation, mixing = np.random.SeedSequence([seed, epoch]).spawn(3)
    torch.manual_seed(int(noise.generate_state(1)[0]))
    draws = torch.Generator().manual_seed(int(augmentation.generate_state(1)[0]))
    return draws, np.random.default_rng(mixing)


def evaluate_rows(setup: Setup, y_pred: Tensor, rows: Tensor) -> dict[str, float]:
    """WILDS' evaluation of an epoch's training predictions, made while the weights were moving."""
    subset = setup.subsets["train"]
    results, _ = subset.eval(y_pred, subset.y_array[rows], subset.metadata_array[rows])
    return {name: float(value) for name, value in results.items()}


def evaluate_splits(
    config: RunConfig, setup: Setup, method: Method, csvs: Mapping[str, CsvLog], epoch: int
) -> tuple[dict[str, Tensor], dict[str, Results]]:
    """Predict and evaluate every split, and write its rows of the two csv files."""
    predictions: dict[str, Tensor] = {}
    results: dict[str, Results] = {}
    for split, loader in setup.eval_loaders.items():
        meter = Meter(setup.info.n_groups, setup.device, by_group=not config.train.no_group_logging)

        def watch(logits: Tensor, batch: Batch, meter: Meter = meter) -> None:
            meter.add_predictions(logits, batch.target, batch.g)

        y_pred = predict(method, loader, setup.device, config.data.size, watch)
        predictions[split], results[split] = y_pred, evaluate(setup.subsets[split], y_pred)
        averages = meter.read()
        csvs[f"{split}_algo"].write(
            {"epoch": epoch, "batch": len(loader), "objective": averages["loss_avg"], **averages}
        )
        csvs[f"{split}_eval"].write({"epoch": epoch, **results[split]})
    return predictions, results


def better(value: float, than: float, decreasing: bool) -> bool:
    """Whether a validation metric improves."""
    return value < than if decreasing else value > than


def save_epoch(
    config: RunConfig,
    folder: RunFolder,
    method: Method,
    optimizer: torch.optim.Optimizer,
    done: Progress,
    predictions: Mapping[str, Tensor],
    is_best: bool,
) -> None:
    """Write an epoch's predictions and checkpoints; the last checkpoint comes last, since it says the epoch is done."""
    t = config.train
    labels: list[str | int] = ["best"] if is_best and t.save_best else []
    labels += [done.epoch] if t.save_step is not None and (done.epoch + 1) % t.save_step == 0 else []
    for label in labels:
        save_checkpoint(folder.model(label), method, done)
    for label in [*labels, *(["last"] if t.save_last else [])]:
        for split, y_pred in predictions.items():
            if t.save_pred:
                save_predictions(folder.predictions(split, label), y_pred)
    if t.save_last:
        save_checkpoint(folder.model("last"), method, done, optimizer)


def kept(folder: RunFolder, epoch: int) -> str:
    """What is left when an epoch fails, for the message."""
    last = folder.model("last")
    return f"{last.name} holds the state after epoch {epoch - 1}" if last.exists() else "no epoch was completed"


def opening(config: RunConfig, setup: Setup, done: Progress) -> str:
    """The first lines of a run: what is trained on what, and every setting."""
    values = [f"  {name}: {value} ({config.origin[name]})" for name, value in config.values().items() if name in config.origin]
    sizes = ", ".join(f"{split} {len(subset):,}" for split, subset in setup.subsets.items())
    start = f"resuming after epoch {done.epoch}" if done.epoch >= 0 else "starting"
    data = f"{config.data.dataset}{' (simulated)' if is_simulated(setup.dataset) else ''}"
    return "\n".join(
        [
            f"{config.algorithm} on {data}, {start}; one bio-batch is one {config.data.bio_batch}; {setup.device}",
            f"images: {sizes}; {setup.train_loader.images_per_epoch:,} per epoch in {len(setup.train_loader)} batches",
            *values,
        ]
    )


def conclude(
    config: RunConfig,
    setup: Setup,
    folder: RunFolder,
    log: TextLog,
    done: Progress,
    checkpoints: Iterable[tuple[str, int]],
) -> list[Record]:
    """Read the predictions back, have WILDS score them, append the records and print the table of the first label."""
    records = []
    source, installed = commit(), versions()
    for label, epoch in checkpoints:
        for split in setup.eval_loaders:
            path = folder.predictions(split, label)
            if not path.exists():
                continue
            subset = setup.subsets[split]
            results = evaluate(subset, read_predictions(path, len(subset)))
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
                    tta=None,
                    bn_stats=config.eval.bn_stats,
                    bio_batch=config.data.bio_batch,
                    train_loader=config.data.train_loader,
                    preset=config.preset,
                    acc=results["acc_avg"],
                    acc_by_cell=by_cell(results),
                    n=len(subset),
                    predictions=path.name,
                    predictions_sha256=sha256(path),
                    config_sha256=config.digest(),
                    commit=source,
                    versions=installed,
                    wall_s=round(done.seconds, 3),
                )
            )
    append_records(folder.path / RESULTS, records)
    log.write("\n" + results_table(records))
    return records
