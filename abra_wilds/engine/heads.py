"""The head phase: classifiers on frozen features, trained side by side, after the epochs over images.

Features of every split are computed once. After each epoch the classifier that is best on validation is
written into the method, with the standardisation of its features folded into its weights, so that whatever is
saved predicts what its predictions file says. Epochs count on from those over images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from abra_wilds.config import RunConfig
from abra_wilds.data.loaders import Loader, groups_of, make_eval_loader
from abra_wilds.data.samplers import BatchSampler, GroupSampler, ShuffledSampler
from abra_wilds.data.transforms import augment
from abra_wilds.engine.checkpoint import Progress, load_checkpoint
from abra_wilds.engine.flops import FlopCount
from abra_wilds.engine.folder import RunFolder
from abra_wilds.engine.logs import CsvLog, Meter, TextLog, no_bar
from abra_wilds.engine.results import Results, better, note_evaluation, save_epoch
from abra_wilds.engine.schedule import OPTIMIZERS, set_learning_rate
from abra_wilds.engine.setup import Setup, reading_kwargs
from abra_wilds.engine.step import step
from abra_wilds.evaluate import evaluate, plain_images, reestimate_bn
from abra_wilds.methods.base import Method
from abra_wilds.types import Batch, HeadPhase, InputError, StepContext, StepOutput, Target

ROWS = 4096  # features that are scored at a time


@dataclass(frozen=True)
class Features:
    """Frozen features of a split, on the method's device.

    Attributes:
        f: (n, D) float32.
        y: (n,) int64 class ids.
        g: (n,) int64 bio-batch ids, on the host.
        metadata: (n, F) int64.
        flops: of computing them.
    """

    f: Tensor
    y: Tensor
    g: Tensor
    metadata: Tensor
    flops: float

    def batch(self, rows: Tensor) -> Batch:
        """Rows (N,) as a batch whose x are features."""
        g, at = self.g[rows], rows.to(self.f.device)
        groups = tuple(of.to(self.f.device) for of in groups_of(g))
        return Batch(self.f[at], Target(self.y[at]), g.to(self.f.device), self.metadata[at], at, groups)

    def parts(self) -> Iterator[Batch]:
        """All rows in order, `ROWS` at a time."""
        for start in range(0, len(self.f), ROWS):
            yield self.batch(torch.arange(start, min(start + ROWS, len(self.f))))


class HeadList(nn.ModuleList):
    """Linear classifiers by number."""

    def __getitem__(self, i: int) -> nn.Linear:  # type: ignore[override]
        return cast(nn.Linear, super().__getitem__(i))

    def __iter__(self) -> Iterator[nn.Linear]:
        return cast(Iterator[nn.Linear], super().__iter__())


class Heads(nn.Module):
    """Equal classifiers, one for each learning rate, and the standardisation of features they share.

    Attributes:
        mean: (D,) of the training features, or zeros.
        std: (D,), or ones.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, method: Method, phase: HeadPhase, f: Tensor):
        super().__init__()
        self._method = (method,)  # in a tuple, so that its parameters are not ours
        std, mean = torch.std_mean(f, dim=0, correction=0)
        keep = phase.standardise
        self.register_buffer("mean", mean if keep else torch.zeros_like(mean))
        self.register_buffer("std", torch.where(std > 0, std, 1.0) if keep else torch.ones_like(std))
        self.heads = HeadList(nn.Linear(f.shape[1], method.info.n_classes) for _ in phase.rates)
        start = method.head if phase.keep_head else self.heads[0]
        for head in self.heads:
            head.load_state_dict(start.state_dict())

    def forward(self, batch: Batch) -> StepOutput:
        """The sum of the heads' losses, so that each gets its own gradient; logits and logs of the first."""
        batch = replace(batch, x=(batch.x - self.mean) / self.std)
        outs = [self._method[0].head_step(head, batch) for head in self.heads]
        return replace(outs[0], loss=torch.stack([out.loss for out in outs]).sum())

    def after_step(self) -> None:
        """Nothing."""

    @torch.no_grad()
    def folded(self, i: int) -> dict[str, Tensor]:
        """Weight and bias of head i for features as they come."""
        head = self.heads[i]
        weight = head.weight / self.std
        return {"weight": weight, "bias": head.bias - weight @ self.mean}


def check_head(config: RunConfig, phase: HeadPhase | None) -> None:
    """Raise where images, features and classifier cannot follow each other.

    Raises:
        InputError: with what to change.
    """
    name = config.algorithm
    if phase is None:
        if config.optim.n_epochs == 0:
            raise InputError(f"{name} learns from images alone: --n_epochs must be 1 or more; got 0")
        return
    if config.eval.tta != "none":
        raise InputError(
            f"{name} trains its classifier on features that are computed once, without adaptation: leave "
            "--tta out, and adapt the saved model by `abra-wilds predict`"
        )


def train_heads(
    config: RunConfig,
    setup: Setup,
    method: Method,
    phase: HeadPhase,
    *,
    folder: RunFolder,
    log: TextLog,
    csvs: Mapping[str, CsvLog],
    done: Progress,
) -> Progress:
    """Train the classifier of a method whose epochs over images are complete; goes on where `done` says.

    Returns:
        The progress at the end.
    """
    began, first = time.monotonic(), config.optim.n_epochs
    resuming = done.epoch >= first
    if config.eval.bn_stats == "precise" and not resuming:
        images = plain_images(setup.train_loader, setup.device, config.data.size)
        reestimate_bn(method, method.predict, images)
    splits = {split: features(config, setup, method, split) for split in ("train", *setup.eval_loaders)}
    torch.manual_seed(config.train.seed)
    heads = Heads(method, phase, splits["train"].f).to(setup.device)
    optimizer = head_optimizer(heads, phase)
    if resuming:
        load_checkpoint(folder.model("last"), method, optimizer, heads)
    else:
        done = replace(done, epoch=first - 1, flops=done.flops + sum(s.flops for s in splits.values()))
    sampler = head_sampler(splits["train"], phase, config.train.seed)
    bar = tqdm(
        total=phase.epochs, initial=done.epoch + 1 - first, desc="classifier", disable=no_bar(config.train)
    )
    for epoch in range(done.epoch + 1, first + phase.epochs):
        meter = Meter(setup.info.n_groups, setup.device, by_group=not config.train.no_group_logging)
        flops = head_epoch(heads, optimizer, phase, splits["train"], sampler, epoch - first, meter)
        csvs["train_algo"].write({"epoch": epoch, "batch": len(sampler), **meter.read()})
        chosen, value = pick(config, setup, method, heads, splits["val"])
        predictions, results = score(config, setup, method, splits, csvs, epoch)
        is_best = better(value, done.best_val_metric, config.eval.val_metric_decreasing)
        if is_best:
            done = replace(done, best_val_metric=value, best_epoch=epoch)
        began, spent = time.monotonic(), time.monotonic() - began
        steps, flops = done.steps + len(sampler), done.flops + flops
        done = replace(done, epoch=epoch, flops=flops, steps=steps, seconds=done.seconds + spent)
        save_epoch(config, folder, method, optimizer, done, predictions, is_best, heads)
        accs = "  ".join(f"{split} {found['acc_avg']:.3f}" for split, found in results.items())
        best = "  (best so far)" if is_best else ""
        log.write(f"Epoch {epoch}: classifier at rate {phase.rates[chosen]:g}  {accs}{best}")
        bar.update()
    bar.close()
    return done


def silent(config: RunConfig) -> bool | None:
    """Tqdm's `disable` for --progress_bar; None shows the bar at a terminal."""
    return None if config.train.progress_bar is None else not config.train.progress_bar


@torch.no_grad()
def features(config: RunConfig, setup: Setup, method: Method, split: str) -> Features:
    """Frozen features of a split's images as evaluation sees them, in dataset order."""
    subset, d = setup.subsets[split], config.data
    loader: Loader = setup.eval_loaders.get(split) or make_eval_loader(
        subset,
        setup.grouper,
        eval_loader="standard",
        batch_size=d.batch_size,
        **reading_kwargs(d, setup.device),
    )
    method.eval()
    f = torch.empty(len(loader.rows), method.head.in_features, device=setup.device)
    flops = 0.0
    for batch in tqdm(loader, desc=f"features of {split}", disable=no_bar(config.train)):
        batch = batch.to(setup.device)
        with FlopCount() as count:
            f[batch.rows] = method.features(augment(batch.x, "none", size=d.size))
        flops += count.total
    rows = loader.rows
    return Features(f, rows.y.to(setup.device), rows.g, rows.metadata.to(setup.device), flops)


def head_optimizer(heads: Heads, phase: HeadPhase) -> torch.optim.Optimizer:
    """One parameter group a head, whose factor is its peak rate."""
    rated = zip(heads.heads, phase.rates, strict=True)
    groups = [{"params": list(head.parameters()), "factor": rate} for head, rate in rated]
    kwargs: dict[str, Any] = {"lr": 1.0, "weight_decay": phase.weight_decay}
    kwargs |= {"momentum": 0.9} if phase.optimizer == "SGD" else {}
    return OPTIMIZERS[phase.optimizer](groups, **kwargs)


def head_sampler(train: Features, phase: HeadPhase, seed: int) -> BatchSampler:
    """Shuffled rows, or rows of so many bio-batches.

    Raises:
        InputError: if such a batch cannot be made.
    """
    if phase.n_groups:
        return GroupSampler(train.g.numpy(), phase.batch_size, phase.n_groups, seed)
    return ShuffledSampler(len(train.f), phase.batch_size, seed)


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
    for i, rows in enumerate(sampler):
        progress = (epoch * len(sampler) + i) / total
        set_learning_rate(optimizer, 0.5 * (1 + math.cos(math.pi * progress)))
        method.context = StepContext(optimizer.param_groups[0]["lr"], True, epoch, progress)
        batch = train.batch(torch.tensor(rows))
        with FlopCount() as count:
            out = step(heads, batch, optimizer)
        flops += count.total
        meter.update(out, batch)
    return flops


def pick(config: RunConfig, setup: Setup, method: Method, heads: Heads, val: Features) -> tuple[int, float]:
    """Write the head that is best on validation into the method; its number and its value."""
    values = []
    for i in range(len(heads.heads)):
        method.head.load_state_dict(heads.folded(i))
        y_pred = torch.cat([method.classify(batch.x).argmax(1) for batch in val.parts()])
        values.append(evaluate(setup.subsets["val"], y_pred.cpu())[config.eval.val_metric])
    best = (min if config.eval.val_metric_decreasing else max)(range(len(values)), key=values.__getitem__)
    method.head.load_state_dict(heads.folded(best))
    return best, values[best]


@torch.no_grad()
def score(
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
        y_pred = []
        for batch in cached.parts():
            logits = method.classify(batch.x)
            meter.add_predictions(logits, batch.target, batch.g)
            y_pred.append(logits.argmax(1))
        found = torch.cat(y_pred).cpu()
        scores = evaluate(setup.subsets[split], found)
        if split == "train":
            csvs["train_eval"].write({"epoch": epoch, **scores})
            continue
        predictions[split], results[split] = found, scores
        note_evaluation(csvs, split, epoch, len(setup.eval_loaders[split]), meter.read(), scores)
    return predictions, results
