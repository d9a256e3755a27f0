"""Frozen features of a split, and classifiers trained side by side on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from abra_wilds.config.run import RunConfig
from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.reading.loaders import Loader, make_eval_loader
from abra_wilds.data.reading.prefetch import prefetched
from abra_wilds.data.samplers.batches import BatchSampler, GroupSampler, ShuffledSampler
from abra_wilds.dist import sum_across_ranks
from abra_wilds.engine.artifacts.logs import no_bar
from abra_wilds.engine.flops import FlopCount
from abra_wilds.engine.precision import fused
from abra_wilds.engine.schedule import OPTIMIZERS
from abra_wilds.engine.setup import Setup, reading_kwargs
from abra_wilds.methods.base import Method
from abra_wilds.types import Batch, HeadPhase, StepOutput, Target, groups_of

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

        def sent(t: Tensor) -> Tensor:
            return t.to(self.f.device, non_blocking=True)

        g, at = self.g[rows], sent(rows)
        groups = tuple(map(sent, groups_of(g)))
        return Batch(self.f[at], Target(self.y[at]), sent(g), self.metadata[at], at, groups)

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
    f = torch.zeros(len(loader.rows), method.head.in_features, device=setup.device)
    flops = 0.0
    batches = tqdm(loader, desc=f"features of {split}", disable=no_bar(config.train))
    for i, (_, batch) in enumerate(prefetched(batches, setup.device)):
        with FlopCount() if i == 0 else nullcontext() as count:
            f[batch.rows] = method.features(augment(batch.x, d.plain, size=d.size))
        if count is not None:
            flops = count.total / len(batch) * len(f)
    rows, f = loader.rows, sum_across_ranks(f)  # each row is one process's
    return Features(f, rows.y.to(setup.device), rows.g, rows.metadata.to(setup.device), flops)


def head_optimizer(heads: Heads, phase: HeadPhase) -> torch.optim.Optimizer:
    """One parameter group a head, whose factor is its peak rate."""
    rated = zip(heads.heads, phase.rates, strict=True)
    groups = [{"params": list(head.parameters()), "factor": rate} for head, rate in rated]
    kwargs: dict[str, Any] = {"lr": 1.0, "weight_decay": phase.weight_decay}
    kwargs |= {"momentum": 0.9} if phase.optimizer == "SGD" else {}
    kwargs |= fused(heads.parameters(), kwargs)
    return OPTIMIZERS[phase.optimizer](groups, **kwargs)


def head_sampler(train: Features, phase: HeadPhase, seed: int) -> BatchSampler:
    """Shuffled rows, or rows of so many bio-batches.

    Raises:
        InputError: if such a batch cannot be made.
    """
    if phase.n_groups:
        return GroupSampler(train.g.numpy(), phase.batch_size, phase.n_groups, seed)
    return ShuffledSampler(len(train.f), phase.batch_size, seed)
