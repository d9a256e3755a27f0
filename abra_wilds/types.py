"""The vocabulary: what flows between loaders, methods and the engine, with every shape defined once.

Letters used throughout: N images of a batch, C channels, h w of a feature map, H W of an image, D features, O
classes, G bio-batches present in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from abra_wilds.errors import Diverged, InputError

__all__ = [
    "INSIDE",
    "Batch",
    "BatchPlan",
    "DataInfo",
    "Diverged",
    "HeadPhase",
    "InputError",
    "StepContext",
    "StepOutput",
    "Target",
    "ViewPlan",
    "grouping",
    "groups_of",
    "ordered",
]

# Kinds of mixing that leave every image in its bio-batch, for methods that compare bio-batches.
INSIDE = ("none", "cutmix")


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

    @classmethod
    def of(cls, y: Tensor | Target, n: int) -> Target:
        """The target of n images: a Target itself, or class ids (n,).

        Raises:
            InputError: for ids that are no integers, or another number of them.
        """
        if not isinstance(y, Target):
            return cls(integers("y", y, n))
        integers("y", y.y, n)
        return y

    def dense(self, n_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The target distribution Y, (N, O); rows sum to one."""
        Y = F.one_hot(self.y, n_classes).to(dtype)  # (N, O)
        if self.y_b is None:
            return Y
        w = self.w.to(dtype).reshape(-1, 1) if isinstance(self.w, Tensor) else self.w
        return w * Y + (1 - w) * F.one_hot(self.y_b, n_classes).to(dtype)

    def __getitem__(self, rows: Tensor | slice) -> Target:
        """The target of some rows."""
        y_b = None if self.y_b is None else self.y_b[rows]
        return Target(self.y[rows], y_b, self.w[rows] if isinstance(self.w, Tensor) else self.w)

    def twice(self) -> Target:
        """The target of the same images twice, one after the other, (2N,)."""
        y_b = None if self.y_b is None else self.y_b.repeat(2)
        w = self.w.reshape(-1).expand(len(self.y)).repeat(2) if isinstance(self.w, Tensor) else self.w
        return Target(self.y.repeat(2), y_b, w)

    def to(self, device: torch.device) -> Target:
        """The same target on another device."""
        y_b = None if self.y_b is None else self.y_b.to(device, non_blocking=True)
        w = self.w.to(device, non_blocking=True) if isinstance(self.w, Tensor) else self.w
        return Target(self.y.to(device, non_blocking=True), y_b, w)


@dataclass(frozen=True)
class Batch:
    """One mini-batch.

    Attributes:
        x: (N, C_in, H, W); uint8 or uint16 as the loader hands it over, float32 once augmented.
        target: what the N images show.
        g: (N,) int64, the grouper's bio-batch id of each image.
        metadata: (N, F) int64, WILDS' metadata rows.
        rows: (N,) int64, positions in the split, so that predictions return in dataset order;
            of context as of other rows.
        groups: one (n_i,) int64 index tensor for each bio-batch in the batch, in order of first appearance;
            made on the host so that no method needs a synchronising torch.unique.
        views: further standardised views of the same images, (N, C_in, H_k, W_k) float32 each; empty unless
            the method asks for them by `view_plan`.
        context: (N,) bool, rows that lend their batch statistics and are not learned from (control wells);
            None where there are none.
        cropped: whether the images are windows, read where the transform would have cropped them.
    """

    x: Tensor
    target: Target
    g: Tensor
    metadata: Tensor
    rows: Tensor
    groups: tuple[Tensor, ...]
    views: tuple[Tensor, ...] = ()
    context: Tensor | None = None
    cropped: bool = False

    @classmethod
    def of(cls, x: Tensor, y: Tensor | Target, bio_batch: Tensor | Sequence[int] | None = None) -> Batch:
        """A batch of plain tensors, for `method(batch)` in a loop of your own.

        Args:
            x: (N, C_in, H, W) images, standardised as the network wants them.
            y: (N,) class ids, or a Target where they are mixed.
            bio_batch: (N,) ids, any integers; None where all images are of one bio-batch. Methods that keep
                something for each bio-batch (groupDRO, DANN, Spectral-OT) take the ids of their DataInfo.

        Raises:
            InputError: for ids that are no integers, or lengths that differ.

        >>> len(Batch.of(torch.rand(3, 1, 8, 8), torch.tensor([0, 2, 1]), [70, 30, 70]).groups)
        2
        """
        N = len(x)
        g, groups = grouping(bio_batch, N, x.device)
        metadata = torch.empty(N, 0, dtype=torch.int64, device=x.device)
        return cls(x, Target.of(y, N), g, metadata, torch.arange(N, device=x.device), groups)

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
            groups=self._moved_groups(device),
            views=tuple(moved(view) for view in self.views),
            context=None if self.context is None else moved(self.context),
        )

    def _moved_groups(self, device: torch.device) -> tuple[Tensor, ...]:
        """`groups` on another device, by one copy for all of them."""
        if not self.groups or self.groups[0].device == device:
            return self.groups
        order = torch.cat(self.groups)
        if device.type == "cuda" and order.device.type == "cpu":
            order = order.pin_memory()  # a copy from other memory may wait for the device
        return torch.split(order.to(device, non_blocking=True), [len(rows) for rows in self.groups])


@dataclass(frozen=True)
class StepContext:
    """What a method may know of the engine's state during one step.

    The defaults are those of a loop that says nothing of itself: WILDS' learning rate, every log, epoch 0.

    Attributes:
        lr: the learning rate of theta at this step.
        log: whether this step's logs will be read; costly diagnostics run only then.
        epoch: passes over the training images that are complete.
        progress: share of the run's optimiser steps that are complete, in [0, 1).
    """

    lr: float = 1e-3
    log: bool = True
    epoch: int = 0
    progress: float = 0.0


@dataclass(frozen=True)
class StepOutput:
    """What one differentiable step returns.

    Attributes:
        loss: () what the engine differentiates.
        logits: (N, O) for training accuracy, clean where the step computes them; None where no label is
            learned from.
        logs: detached scalars, named as in the paper.
        fresh_optimizer: the optimiser's moments must be forgotten before this step is taken (IRM's annealing
            step).
    """

    loss: Tensor
    logits: Tensor | None
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
        classes: the name of each class; empty where they have none.
        channels: the name of each channel; empty where they have none.
        cell_lines: number of the cell line of each of `train_groups`; empty where the data set names none, or
            bio-batches have several.
    """

    n_classes: int
    in_channels: int = 3
    n_groups: int = 1
    train_groups: tuple[int, ...] = (0,)
    classes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    cell_lines: tuple[int, ...] = ()


@dataclass(frozen=True)
class BatchPlan:
    """Which batches a method wants.

    Attributes:
        train_loader: "plate" deals every bio-batch out without replacement, "group" and "standard" are WILDS'
            loaders, "pairs" gives every image a partner of its class from another bio-batch, "controls" gives
            every batch of a bio-batch control wells of the same plate.
        groupby_fields: the metadata fields that define a bio-batch.
        uniform_over_groups: whether bio-batches are drawn uniformly rather than by their size.
        distinct_groups: whether the bio-batches of one "group" batch must differ.
        n_groups: bio-batches of a "group" batch; 0 leaves it to the preset.
        mix: "none", "cutmix" inside a bio-batch, "cutmix_any" across the batch, or "lisa" between partners.
        mixes: the kinds of mixing with which the method makes sense.
        mix_alpha: of Beta(alpha, alpha), from which the share of own pixels is drawn.
        loaders: the train loaders with which the method makes sense.
        min_groups: bio-batches a batch must hold at least.
        min_group_rows: images of each bio-batch that a batch must hold at least.
        needs_uniform: whether the method is defined for batches uniform over bio-batches only.
        tta: the test-time adaptation that belongs to the method.
        tta_support: whether it takes the statistics of as many images together as a training batch has of a
            bio-batch, rather than of the whole bio-batch.
    """

    train_loader: str = "standard"
    groupby_fields: tuple[str, ...] = ("experiment",)
    uniform_over_groups: bool = False
    distinct_groups: bool = True
    n_groups: int = 0
    mix: str = "none"
    mixes: tuple[str, ...] = ("none", "cutmix", "cutmix_any", "lisa")
    mix_alpha: float = 1.0
    loaders: tuple[str, ...] = ("standard", "group", "plate")
    min_groups: int = 1
    min_group_rows: int = 1
    needs_uniform: bool = False
    tta: str = "none"
    tta_support: bool = False


@dataclass(frozen=True)
class ViewPlan:
    """Which augmented views of every image a method wants beside the image itself.

    Attributes:
        sizes: side in pixels of each view; 0 keeps the image's.
        scales: smallest and largest share of the image's area that each view shows.
        jitter: spread of the random gain and offset of each image and channel, in standard deviations.
        blur: probability that each view is blurred.
    """

    sizes: tuple[int, ...]
    scales: tuple[tuple[float, float], ...]
    jitter: float
    blur: tuple[float, ...]


@dataclass(frozen=True)
class HeadPhase:
    """How the classifier is trained on frozen features, once the epochs over images are done.

    Attributes:
        epochs: passes over the training features.
        batch_size: rows of a batch.
        n_groups: bio-batches of a batch, drawn as WILDS' group loader does; 0 shuffles.
        optimizer: "Adam" or "SGD" with momentum 0.9.
        rates: learning rates to try side by side; validation accuracy picks one after each epoch. Each falls
            to 0 along a cosine.
        weight_decay: L2 weight.
        standardise: whether features are standardised by the training features' mean and deviation.
        keep_head: whether to start from the classifier that the epochs over images have trained.
    """

    epochs: int
    batch_size: int
    n_groups: int = 0
    optimizer: str = "SGD"
    rates: tuple[float, ...] = (0.1,)
    weight_decay: float = 0.0
    standardise: bool = True
    keep_head: bool = False


def groups_of(g: Tensor) -> tuple[Tensor, ...]:
    """The rows of each bio-batch of a batch, in order of first appearance; on the host.

    >>> groups_of(torch.tensor([7, 3, 7]))
    (tensor([0, 2]), tensor([1]))
    """
    order, sizes = ordered(g)
    return torch.split(order, sizes)


def ordered(g: Tensor) -> tuple[Tensor, list[int]]:
    """The rows of a batch, (N,), bio-batch after bio-batch as in `groups_of`, and how many each has."""
    # On the host and by plain numbers: torch.unique gives no order of first appearance.
    number = {group: k for k, group in enumerate(dict.fromkeys(g.tolist()))}
    which = torch.tensor([number[group] for group in g.tolist()], dtype=torch.int64)
    return which.argsort(stable=True), which.bincount().tolist()


def grouping(
    ids: Tensor | Sequence[int] | None, n: int, device: torch.device
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Ids of n rows' bio-batches, (n,) int64, and the rows of each (see Batch), on a device.

    Args:
        ids: (n,) any integers; None where all rows are of one bio-batch.
        n: rows.
        device: of the result.

    Raises:
        InputError: as for `integers`.
    """
    g = torch.zeros(n, dtype=torch.int64) if ids is None else integers("bio_batch", ids, n)
    return g.to(device), tuple(rows.to(device) for rows in groups_of(g))


def integers(name: str, values: Any, n: int) -> Tensor:
    """The values as an int64 tensor, (n,).

    Args:
        name: what to call them in the message.
        values: a tensor, an array or a sequence.
        n: how many there must be.

    Raises:
        InputError: for values that are no integers, or another number of them.
    """
    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0)
    kinds = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if found.dtype not in kinds or found.shape != (n,):
        got = f"{tuple(found.shape)} of {found.dtype}" if found.numel() else repr(values)[:40]
        raise InputError(f"{name} must be {n} integers, one for each image; got {got}")
    return found.long()
