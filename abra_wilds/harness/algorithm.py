"""A Method as an algorithm of a checkout's loop.

Loaders, metrics, logs by group and files are the checkout's. Forward pass, step, learning rate and
re-estimated batch-norm statistics are the functions that our own loop calls.
"""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abra_wilds.config.run import RunConfig
from abra_wilds.data.augment.mixing import mix
from abra_wilds.data.datasets.catalogue import data_info
from abra_wilds.data.reading.loaders import Loader, make_plain_loader
from abra_wilds.engine.artifacts.checkpoint import Progress, load_checkpoint, save_checkpoint
from abra_wilds.engine.artifacts.folder import folder_of
from abra_wilds.engine.artifacts.logs import DivergenceCheck
from abra_wilds.engine.evaluation.evaluate import plain_images, reestimate_bn
from abra_wilds.engine.schedule import learning_rate, make_optimizer, set_learning_rate
from abra_wilds.engine.setup import build_method, reading_kwargs
from abra_wilds.engine.step import share_of_step, step
from abra_wilds.methods.base import Method
from abra_wilds.types import Batch, StepContext, Target, groups_of


class HarnessAlgorithm:
    """Stands before the checkout's SingleModelAlgorithm in a class made for the run; see `build`.

    Attributes:
        model: the Method.
        run: every value of the run.
        batches: training batches taken so far; epoch, step and learning rate follow from it.
    """

    model: Method
    device: torch.device
    is_training: bool
    grouper: Any
    loss: Any

    def __init__(
        self,
        run: RunConfig,
        method: Method,
        config: Any,
        train_loader: Any,
        plain: Loader | None,
        **parts: Any,
    ):
        # The base class keeps an optimiser that is there; the learning rate is set at every step.
        self.optimizer = make_optimizer(run.optim, method)
        config = copy.copy(config)
        config.scheduler = None
        super().__init__(config=config, model=method, n_train_steps=None, **parts)  # type: ignore[call-arg]
        self.run = run
        self.plain = plain
        self.train_loader = train_loader
        self.batches = 0
        self.moved = False
        self.columns: tuple[str, ...] | None = None

    def update(self, batch: Any, unlabeled_batch: Any = None, is_epoch_end: bool = False) -> dict[str, Any]:
        """One training batch (x, y, metadata); returns what train.py collects of it."""
        o, n = self.run.optim, len(self.train_loader)
        epoch, i = divmod(self.batches, n)
        size = o.gradient_accumulation_steps
        steps_per_epoch = -(-n // size)
        number = epoch * steps_per_epoch + i // size
        lr = o.lr if self.model.schedule_lost else learning_rate(o, number, steps_per_epoch)
        set_learning_rate(self.optimizer, lr)
        self.model.context = StepContext(lr, True, epoch, number / (o.n_epochs * steps_per_epoch))

        ours = self.batch_of(batch)
        take = (i + 1) % size == 0 or i + 1 == n
        out = step(self.model, ours, self.optimizer, share_of_step(o, i, n), take, o.max_grad_norm)
        objective = out.loss.item()
        if not math.isfinite(objective):
            guard = DivergenceCheck(self.grouper.group_str)
            guard.note(number, lr, ours.g[torch.stack([rows[0] for rows in ours.groups])].tolist(), out)
            guard.check(folder_of(self.run).kept(epoch))
        self.batches += 1
        self.moved = True
        return self.logged(ours, out.logits, objective, out.logs)

    def batch_of(self, batch: Any) -> Batch:
        """The checkout's (x, y, metadata) as a Batch on the device, mixed where the run asks for it."""
        x, y, metadata = batch
        g = self.grouper.metadata_to_group(metadata)
        # Positions in the split are not known: the checkout's loaders do not say which rows they read.
        rows = torch.arange(len(y))
        ours = Batch(x, Target(y), g, metadata, rows, groups_of(g)).to(self.device)
        d = self.run.data
        rng = np.random.default_rng([self.run.train.seed, self.batches])
        return mix(ours, d.mix, rng, d.cutmix_alpha, d.cutmix_prob)

    def logged(
        self, batch: Batch, logits: Tensor | None, objective: float, logs: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """Enter a training batch into the checkout's running averages."""
        if logits is None:
            logits = no_answers(batch, self.model.info.n_classes)
        results: dict[str, Any] = {"g": batch.g, "y_true": batch.target.y, "y_pred": logits}
        results |= {"metadata": batch.metadata, "objective": objective}
        for name, value in logs.items():
            total, count = self.means.get(name, (0.0, 0))
            self.means[name] = (total + float(value) * len(batch), count + len(batch))
        self.update_log(results)  # type: ignore[attr-defined]
        return self.sanitize_dict(results)  # type: ignore[attr-defined,no-any-return]

    def process_batch(self, batch: Any, unlabeled_batch: Any = None) -> dict[str, Any]:
        """An evaluation batch through `predict`."""
        x, y, metadata = batch
        y_pred = self.model.predict(x.to(self.device))
        g = self.grouper.metadata_to_group(metadata).to(self.device)
        return {"g": g, "y_true": y.to(self.device), "y_pred": y_pred, "metadata": metadata}

    def objective(self, results: Mapping[str, Any]) -> Tensor:
        """Mean cross-entropy of an evaluation batch, whatever the method; () on the device."""
        loss: Tensor = self.loss.compute(results["y_pred"], results["y_true"], return_dict=False)
        return loss

    def train(self, mode: bool = True) -> None:
        """Enter training, or evaluation with statistics re-estimated if weights have moved since."""
        if not mode and self.moved and self.plain is not None:
            images = plain_images(self.plain, self.device, self.run.data.size, self.run.data.plain)
            reestimate_bn(self.model, self.model.predict, images)
        self.moved = False
        super().train(mode)  # type: ignore[misc]

    def reset_log(self) -> None:
        """Forget the running averages, the method's own among them."""
        self.means: dict[str, tuple[float, int]] = {}
        super().reset_log()  # type: ignore[misc]

    def get_log(self) -> dict[str, Any]:
        """The checkout's averages and the method's logs.

        train_algo.csv has the columns of its first row, as WILDS writes it: a log that comes later is left
        out, one that is missing is NaN.
        """
        log: dict[str, Any] = super().get_log()  # type: ignore[misc]
        if not self.is_training:
            return log
        if self.columns is None:
            self.columns = tuple(self.means)
        own = [name for name in self.columns if name not in log]
        return log | {k: self.means[k][0] / self.means[k][1] if k in self.means else np.nan for k in own}

    def get_pretty_log_str(self) -> str:
        """The checkout's lines, and one for each log of the method."""
        own = "".join(f"{name}: {total / count:.3g}\n" for name, (total, count) in self.means.items())
        return own + str(super().get_pretty_log_str())  # type: ignore[misc]

    def save(self, epoch: int, best_val_metric: float, path: str) -> None:
        """Write a checkpoint of our own command's format, which holds WILDS' keys."""
        optimizer = None if Path(path) == folder_of(self.run).model("best") else self.optimizer
        save_checkpoint(Path(path), self.model, Progress(epoch, best_val_metric), optimizer)

    def load(self, path: str) -> tuple[int, float | None]:
        """Take over a checkpoint, to evaluate it or, with its optimiser, to go on from it.

        Returns:
            Its epoch and its best validation metric.

        Raises:
            FileNotFoundError: in training, where WILDS then starts from the beginning.
            InputError: if it does not fit.
        """
        training = not self.run.eval.eval_only
        if training and not Path(path).is_file():
            raise FileNotFoundError(path)
        done = load_checkpoint(Path(path), self.model, self.optimizer if training else None)
        self.batches = (done.epoch + 1) * len(self.train_loader)
        if training:
            self.columns = columns_of(folder_of(self.run).path / "train_algo.csv")
        return done.epoch, done.best_val_metric


def no_answers(batch: Batch, n_classes: int) -> Tensor:
    """Logits, (N, O + 1), of images that were not classified, for a loop that wants some.

    All are certain of a class that does not exist: none is right, and the cross-entropy is infinite. WILDS
    would not stand one that is not a number.
    """
    logits = torch.full((len(batch), n_classes + 1), -torch.inf, device=batch.x.device)
    logits[:, -1] = 0
    return logits


def columns_of(path: Path) -> tuple[str, ...] | None:
    """Those of a log that a resumed run goes on with, but for epoch and batch; None where none begins."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file), None)
    return None if header is None else tuple(name for name in header if name not in ("epoch", "batch"))


def begins(run: RunConfig) -> bool:
    """Whether the run starts from its first weights, rather than from a model of its folder."""
    resuming = run.train.resume and folder_of(run).model("last").is_file()
    return not (resuming or run.eval.eval_only)


def build(
    base: type,
    run: RunConfig,
    config: Any,
    datasets: Any,
    grouper: Any,
    loss: Any,
    metric: Any,
    method: Method | None = None,
) -> Any:
    """The algorithm of a run.

    Args:
        base: the checkout's SingleModelAlgorithm.
        run: every value.
        config: the checkout's own configuration.
        datasets: its splits, with "dataset" and "loader" each.
        grouper: defines the bio-batches.
        loss: its loss, for evaluation and logs.
        metric: its accuracy, for logs.
        method: with its first weights; None builds it.

    Raises:
        InputError: if batches or weights cannot be used.
    """
    subset, loader = datasets["train"]["dataset"], datasets["train"]["loader"]
    if method is None:
        method = build_method(run, data_info(subset.dataset, subset, grouper), load=begins(run))
    plain = None
    if run.eval.bn_stats == "precise" and not run.eval.eval_only:
        reading = reading_kwargs(run.data, config.device)
        plain = make_plain_loader(subset, grouper, run.data.batch_size, **reading)
    kind = type(run.algorithm, (HarnessAlgorithm, base), {})
    method = method.to(config.device)
    return kind(run, method, config, loader, plain, grouper=grouper, loss=loss, metric=metric)
