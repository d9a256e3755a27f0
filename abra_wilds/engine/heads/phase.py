"""The head phase: classifiers on frozen features, trained side by side, after the epochs over images.

Features of every split are computed once. After each epoch the classifier that is best on validation is
written into the method, with the standardisation of its features folded into its weights, so that whatever is
saved predicts what its predictions file says. Epochs count on from those over images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from abra_wilds.config.run import RunConfig
from abra_wilds.data.samplers.batches import BatchSampler
from abra_wilds.engine.artifacts.checkpoint import Progress, load_checkpoint
from abra_wilds.engine.artifacts.folder import RunFolder
from abra_wilds.engine.artifacts.logs import CsvLog, Meter, TextLog, no_bar
from abra_wilds.engine.artifacts.trackers import Tracker
from abra_wilds.engine.evaluation.evaluate import plain_images, reestimate_bn, score
from abra_wilds.engine.evaluation.picks import better
from abra_wilds.engine.evaluation.results import Results, note_evaluation, save_epoch, screen_scores
from abra_wilds.engine.flops import FlopCount
from abra_wilds.engine.heads.heads import Features, Heads, features, head_optimizer, head_sampler
from abra_wilds.engine.schedule import set_learning_rate
from abra_wilds.engine.setup import Setup
from abra_wilds.engine.step import step
from abra_wilds.engine.stop import StopRequest
from abra_wilds.methods.base import Method
from abra_wilds.types import Diverged, HeadPhase, StepContext


def train_heads(
    config: RunConfig,
    setup: Setup,
    method: Method,
    phase: HeadPhase,
    *,
    folder: RunFolder,
    log: TextLog,
    csvs: Mapping[str, CsvLog],
    tracker: Tracker,
    done: Progress,
    stop: StopRequest,
) -> Progress:
    """Train the classifier of a method whose epochs over images are complete; goes on where `done` says.

    Raises:
        Stopped: at a signal, after the epoch in which it came.

    Returns:
        The progress at the end.
    """
    began, first = time.monotonic(), config.optim.n_epochs
    resuming = done.epoch >= first
    if config.eval.bn_stats == "precise" and not resuming:
        images = plain_images(setup.plain_loader, setup.device, config.data.size, config.data.plain)
        reestimate_bn(method, method.predict, images)
    splits = {split: features(config, setup, method, split) for split in ("train", *setup.eval_loaders)}
    torch.manual_seed(config.train.seed)
    heads = Heads(method, phase, splits["train"].f).to(setup.device)
    optimizer = head_optimizer(heads, phase)
    if resuming:
        load_checkpoint(folder.model("last"), method, optimizer, heads)
    else:
        done = replace(done, epoch=first - 1, flops=done.flops + splits["train"].flops)
    sampler = head_sampler(splits["train"], phase, config.train.seed)
    bar = tqdm(
        total=phase.epochs, initial=done.epoch + 1 - first, desc="classifier", disable=no_bar(config.train)
    )
    for epoch in range(done.epoch + 1, first + phase.epochs):
        meter = Meter(setup.info.n_groups, setup.device, by_group=not config.train.no_group_logging)
        flops = head_epoch(heads, optimizer, phase, splits["train"], sampler, epoch - first, meter)
        row = {"epoch": epoch, "batch": len(sampler), **meter.read()}
        csvs["train_algo"].write(row)
        chosen, value = pick(config, setup, method, heads, splits.get("val"))
        predictions, results = score_heads(config, setup, method, splits, csvs, epoch)
        is_best = value is not None and better(value, done.best_val_metric, config.eval.val_metric_decreasing)
        if is_best:
            done = replace(done, best_val_metric=value, best_epoch=epoch)
        began, spent = time.monotonic(), time.monotonic() - began
        steps, flops = done.steps + len(sampler), done.flops + flops
        done = replace(done, epoch=epoch, flops=flops, steps=steps, seconds=done.seconds + spent)
        save_epoch(config, folder, method, optimizer, done, predictions, is_best, heads)
        for split, values in {"train": row, **results}.items():
            tracker.write(split, values, steps - 1)
        accs = "".join(f"  {split} {found['acc_avg']:.3f}" for split, found in results.items())
        best = "  (best so far)" if is_best else ""
        log.write(f"Epoch {epoch}: classifier at rate {phase.rates[chosen]:g}{accs}{best}")
        bar.update()
        stop.check(folder, epoch + 1)
    bar.close()
    return done


def head_epoch(
    heads: Heads,
    optimizer: torch.optim.Optimizer,
    phase: HeadPhase,
    train: Features,
    sampler: BatchSampler,
    epoch: int,
    meter: Meter,
) -> float:
    """One pass over the training features; the FLOPs it took."""
    sampler.set_epoch(epoch)
    heads.train()
    total, flops = phase.epochs * len(sampler), 0.0
    method = heads._method[0]
    for i, drawn in enumerate(sampler):
        progress = (epoch * len(sampler) + i) / total
        set_learning_rate(optimizer, 0.5 * (1 + math.cos(math.pi * progress)))
        # Rates fall from the factor 1 that each head's parameter group multiplies.
        method.context = StepContext(optimizer.param_groups[0]["lr"], True, epoch, progress)
        batch = train.batch(torch.tensor(drawn.rows))
        with FlopCount() if i == 0 else nullcontext() as count:
            out = step(heads, batch, optimizer)
        if count is not None:
            flops = count.total / len(batch) * sampler.images_per_epoch
        meter.update(out, batch)
    return flops


def pick(
    config: RunConfig, setup: Setup, method: Method, heads: Heads, val: Features | None
) -> tuple[int, float | None]:
    """Write the head that is best on validation into the method; its number and its value.

    Without validation there is one head, and no value.

    Raises:
        Diverged: if no head's weights are finite.
    """
    values: dict[int, float] = {}
    for i, head in enumerate(heads.heads):
        if not bool(torch.isfinite(head.weight).all()):
            continue
        method.head.load_state_dict(heads.folded(i))
        if val is None:
            return i, None
        y_pred = torch.cat([method.classify(batch.x).argmax(1) for batch in val.parts()])
        values[i] = score(setup.subsets["val"], y_pred.cpu())[config.eval.val_metric]
    if not values:
        raise Diverged(
            f"the classifier's weights became infinite at every rate of {method.name}'s head phase; "
            "lower them"
        )
    best = (min if config.eval.val_metric_decreasing else max)(values, key=values.__getitem__)
    method.head.load_state_dict(heads.folded(best))
    return best, values[best]


@torch.no_grad()
def score_heads(
    config: RunConfig,
    setup: Setup,
    method: Method,
    splits: Mapping[str, Features],
    csvs: Mapping[str, CsvLog],
    epoch: int,
) -> tuple[dict[str, Tensor], dict[str, Results]]:
    """Predict and evaluate every split from its features, and write its rows of the csv files."""
    predictions: dict[str, Tensor] = {}
    results: dict[str, Results] = {}
    for split, cached in splits.items():
        meter = Meter(setup.info.n_groups, setup.device, by_group=not config.train.no_group_logging)
        screen, y_pred = (None if split == "train" else screen_scores(setup, split)), []
        for batch in cached.parts():
            logits = method.classify(batch.x)
            meter.add_predictions(logits, batch.target, batch.g)
            y_pred.append(logits.argmax(1))
            if screen is not None:
                screen.add(logits, batch.rows)
        found = torch.cat(y_pred).cpu()
        scores = score(setup.subsets[split], found) | (screen.results() if screen is not None else {})
        if split == "train":
            csvs["train_eval"].write({"epoch": epoch, **scores})
            continue
        predictions[split], results[split] = found, scores
        n_batches = len(setup.eval_loaders[split].sampler.whole)
        note_evaluation(csvs, split, epoch, n_batches, meter.read(), scores)
    return predictions, results
