"""Accuracy against the number of images whose statistics are taken together at test time (ABRA, Fig. 7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from abra_wilds.analysis.saved import Saved
from abra_wilds.data.samplers.batches import RowIds, even_chunks
from abra_wilds.engine.evaluation.evaluate import score
from abra_wilds.errors import InputError
from abra_wilds.tta.adapters import own_statistics, running_statistics
from abra_wilds.types import Batch

SMALLEST_BATCH = 4
PARTITIONS = 10


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a split, predicted in batches of one size.

    Attributes:
        split: such as "test".
        size: images of a batch; None where the running statistics predict.
        draw: which random partition, from 0.
        fewest: images of the smallest batch.
        largest: images of the largest.
        acc: fraction of images that are right.
        n: images of the split.
    """

    split: str
    size: int | None
    draw: int
    fewest: int
    largest: int
    acc: float
    n: int


Key = tuple[int | None, int]


def batch_size_curve(
    saved: Saved, split: str = "test", sizes: Sequence[int] | None = None, draws: int = PARTITIONS
) -> list[Accuracy]:
    """Accuracies of a split by the statistics of batches of several sizes, and without adaptation.

    Each bio-batch is parted at random into batches of nearly `size` images, each of which is predicted by its
    own statistics; every draw parts again. Features cannot be kept, so that each draw is a forward pass of
    the split; images are read once. A size that no bio-batch exceeds parts nothing, and is drawn once.

    Args:
        saved: the model.
        split: of its data.
        sizes: None for the powers of two from 4 up to half the largest bio-batch, and the whole of it.
        draws: partitions of each size.

    Raises:
        InputError: for a size below 2 or above the largest bio-batch, or an unknown split.
    """
    members = saved.members(split)
    most = max(map(len, members.values()))
    keys: list[Key] = [(None, 0)]
    for size in checked_sizes(most, sizes):
        keys += [(size, draw) for draw in range(draws if size < most else 1)]
    subset, seed = saved.setup.subsets[split], saved.config.train.seed
    predicted = {key: torch.full((len(subset),), -1, dtype=torch.int64) for key in keys}
    parted: dict[Key, list[int]] = {key: [] for key in keys}
    for number, (_, batch) in enumerate(saved.read(split, members, "batch sizes of")):
        for key in keys:
            parts = partition(len(batch), key, saved.config.data.batch_size, (seed, number))
            parted[key] += map(len, parts)
            for part, y in zip(parts, predictions(saved, batch, parts, key[0] is not None), strict=True):
                predicted[key][batch.rows[part]] = y
    return [
        Accuracy(split, *key, min(parted[key]), max(parted[key]), score(subset, y)["acc_avg"], len(subset))
        for key, y in predicted.items()
    ]


def checked_sizes(most: int, sizes: Sequence[int] | None) -> list[int]:
    """The sizes that are drawn, in order.

    Raises:
        InputError: for one that is not allowed.
    """
    if sizes is None:
        powers = [SMALLEST_BATCH * 2**k for k in range(most.bit_length())]
        return [*(size for size in powers if 2 * size <= most), most]
    for size in sizes:
        if not 2 <= size <= most:
            raise InputError(
                f"batches of {size} images are asked for; give sizes from 2 to {most}, which the largest "
                "bio-batch has"
            )
    return sorted(set(sizes))


def partition(n: int, key: Key, batch_size: int, seed: Sequence[int]) -> list[RowIds]:
    """Positions in a bio-batch of n images, parted at random; without a size into parts in order.

    Args:
        n: images.
        key: size, draw.
        batch_size: most images of a part in order.
        seed: of the run, and number of the bio-batch.
    """
    size, draw = key
    if size is None:
        return even_chunks(np.arange(n), batch_size)
    order = np.random.default_rng([*seed, size, draw]).permutation(n)
    # As many parts as come nearest to the size; a half rounds down, so that no part is a single image.
    return np.array_split(order, max(1, -(-(2 * n - size) // (2 * size))))


def predictions(saved: Saved, batch: Batch, parts: Sequence[RowIds], adapted: bool) -> Iterator[Tensor]:
    """Class ids of each part of a bio-batch, on the host."""
    images = (saved.standardised(batch.x[part]) for part in parts)
    adapter = own_statistics if adapted else running_statistics
    yield from (logits.argmax(1).cpu() for logits in adapter(saved.method, images))
