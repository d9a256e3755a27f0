"""The vocabulary: what flows between loaders, methods and the engine, with every shape defined once.

Letters used throughout: N images of a batch, C channels, h w of a feature map, H W of an image, D features, O
classes, G bio-batches present in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from abra_wilds.errors import Diverged, InputError

__all__ = [
    "Batch",
    "BatchPlan",
    "DataInfo",
    "Diverged",
    "InputError",
    "StepContext",
    "StepOutput",
    "Target",
]


@dataclass(frozen=True)
class Target:
    """Class ids, or two of them mixed (CutMix).

    Attributes:
        y: (N,) int64 class ids.
        y_b: (N,) int64 class ids of the partner, or None where nothing is mixed.
        w: weight of y in [0, 1]; a float, or (N,). The partner weighs 1 - w.
    """

    y: Tensor
    y_b: Tensor | None = None
    w: Tensor | float = 1.0

    def dense(self, n_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The target distribution Y, (N, O); rows sum to one."""
        Y = F.one_hot(self.y, n_classes).to(dtype)  # (N, O)
        if self.y_b is None:
            return Y
        w = torch.as_tensor(self.w, dtype=dtype, device=self.y.device).reshape(-1, 1)
        return w * Y + (1 - w) * F.one_hot(self.y_b, n_classes).to(dtype)

    def to(self, device: torch.device) -> Target:
        """The same target on another device."""
        y_b = None if self.y_b is None else self.y_b.to(device, non_blocking=True)
        w = self.w.to(device, non_blocking=True) if isinstance(self.w, Tensor) else self.w
        return Target(self.y.to(device, non_blocking=True), y_b, w)


@dataclass(frozen=True)
class Batch:
    """One mini-batch.

    Attributes:
        x: (N, C_in, H, W); uint8 as the loader hands it over, float32 once augmented.
        target: what the N images show.
        g: (N,) int64, the grouper's bio-batch id of each image.
        metadata: (N, F) int64, WILDS' metadata rows.
        rows: (N,) int64, positions in the split, so that predictions return in dataset order.
        groups: one (n_i,) int64 index tensor for each bio-batch in the batch, in order of first appearance;
            made on the host so that no method needs a synchronising torch.unique.
    """

    x: Tensor
    target: Target
    g: Tensor
    metadata: Tensor
    rows: Tensor
    groups: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.target.y)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""

        def moved(t: Tensor) -> Tensor:
            return t.to(device, non_blocking=True)

        return replace(
            self,
            x=moved(self.x),
            target=self.target.to(device),
            g=moved(self.g),
            metadata=moved(self.metadata),
            rows=moved(self.rows),
            groups=tuple(moved(rows) for rows in self.groups),
        )


@dataclass(frozen=True)
class StepContext:
    """What a method may know of the engine's state during one step.

    Attributes:
        lr: the learning rate of theta at this step.
        log: whether this step's logs will be read; costly diagnostics belong behind it.
    """

    lr: float
    log: bool = True


@dataclass(frozen=True)
class StepOutput:
    """What one differentiable step returns.

    Attributes:
        loss: () what the engine differentiates.
        logits: (N, O) clean logits, for training accuracy.
        logs: detached scalars, named as in the paper.
        fresh_optimizer: the optimiser's moments must be forgotten before this step is taken (IRM's annealing
            step).
    """

    loss: Tensor
    logits: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    fresh_optimizer: bool = False


@dataclass(frozen=True)
class DataInfo:
    """What a method may know of the data set.

    Attributes:
        n_classes: O.
        in_channels: C_in.
        n_groups: number of bio-batch ids of the grouper, empty ones included.
        train_groups: ids of the bio-batches that occur in the training split, ascending.
    """

    n_classes: int
    in_channels: int
    n_groups: int
    train_groups: tuple[int, ...]


@dataclass(frozen=True)
class BatchPlan:
    """Which batches a method wants.

    Attributes:
        train_loader: "plate" deals every bio-batch out without replacement, "group" and "standard" are WILDS'
            loaders.
        groupby_fields: the metadata fields that define a bio-batch.
        uniform_over_groups: whether bio-batches are drawn uniformly rather than by their size.
        distinct_groups: whether the bio-batches of one "group" batch must differ.
        mix: "none" or "cutmix".
        loaders: the train loaders with which the method makes sense.
        min_groups: bio-batches a batch must hold at least.
        min_group_rows: images of each bio-batch that a batch must hold at least.
        needs_uniform: whether the method is defined for batches uniform over bio-batches only.
    """

    train_loader: str = "standard"
    groupby_fields: tuple[str, ...] = ("experiment",)
    uniform_over_groups: bool = False
    distinct_groups: bool = True
    mix: str = "none"
    loaders: tuple[str, ...] = ("standard", "group", "plate")
    min_groups: int = 1
    min_group_rows: int = 1
    needs_uniform: bool = False
