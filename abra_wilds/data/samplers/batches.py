"""Which rows make a batch: seeded by (seed, epoch) alone, so that no run depends on what ran before it.

Every sampler yields lists of row positions in the split, knows its exact number of batches, and starts a new
order with `set_epoch`. Bio-batches are the groups of a WILDS grouper. A row that only lends a batch its
statistics, and is not learned from, comes as ~row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from abra_wilds.errors import InputError

RowIds = np.ndarray[Any, np.dtype[np.int64]]


class BatchSampler:
    """A sequence of batches of rows that is redrawn each epoch.

    Attributes:
        whole: the sampler whose batches several processes share (sharding.py); without them itself.
    """

    def __init__(self, n_batches: int, images_per_epoch: int, seed: int = 0):
        self.whole: BatchSampler = self
        self.images_per_epoch = images_per_epoch
        self.seed = seed
        self.epoch = 0
        self._n_batches = n_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields."""
        self.epoch = epoch

    def batches(self, rng: np.random.Generator) -> Iterator[RowIds]:
        """The batches of one epoch, drawn from rng alone."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.batches(np.random.default_rng([self.seed, self.epoch])):
            yield rows.tolist()


class PlateSampler(BatchSampler):
    """Every bio-batch dealt out without replacement, each batch from one bio-batch (ABRA Eq. 3).

    Args:
        group_of: (n,) bio-batch of each row.
        batch_size: largest number of rows of a batch.
        seed: of the order.
        remainder: "even" cuts a bio-batch into ceil(n / batch_size) batches whose sizes differ by at most
            one, so that every row comes exactly once; "drop" keeps full batches only.
        name_of: the name of a bio-batch for error messages.

    Raises:
        InputError: for a bio-batch smaller than batch_size; drawing it twice would need rows twice.
    """

    def __init__(
        self,
        group_of: Sequence[int] | RowIds,
        batch_size: int,
        seed: int,
        remainder: str = "even",
        name_of: Callable[[int], str] = str,
    ):
        if remainder not in ("even", "drop"):
            raise InputError(f"unknown remainder {remainder!r}; choose even or drop")
        check_batch_size(batch_size)
        self.batch_size = batch_size
        self.remainder = remainder
        self._members = members_of(group_of)
        check_bio_batches(self._members, batch_size, name_of)
        sizes = [len(rows) for rows in self._members.values()]
        n_batches = sum(-(-n // batch_size) if remainder == "even" else n // batch_size for n in sizes)
        n_images = sum(n if remainder == "even" else n - n % batch_size for n in sizes)
        super().__init__(n_batches, n_images, seed)

    def batches(self, rng: np.random.Generator) -> Iterator[RowIds]:
        """The batches of one epoch, bio-batches interleaved at random."""
        chunks = [chunk for rows in self._members.values() for chunk in self._cut(rng.permutation(rows))]
        for k in rng.permutation(len(chunks)):
            yield chunks[k]

    def _cut(self, rows: RowIds) -> list[RowIds]:
        if self.remainder == "even":
            return even_chunks(rows, self.batch_size)
        return list(rows[: len(rows) - len(rows) % self.batch_size].reshape(-1, self.batch_size))


class GroupSampler(BatchSampler):
    """WILDS' group loader: draw bio-batches, then rows from each; one epoch misses a part of the images.

    Rows of a bio-batch that has no more rows than are wanted of it are drawn with replacement, as in WILDS.

    Args:
        group_of: (n,) bio-batch of each row.
        batch_size: rows of a batch, a multiple of n_groups_per_batch.
        n_groups_per_batch: bio-batches drawn for a batch.
        seed: of the draws.
        uniform_over_groups: draw bio-batches uniformly rather than by their size.
        distinct_groups: whether the bio-batches of one batch must differ.

    Raises:
        InputError: where no such batch can be made.
    """

    def __init__(
        self,
        group_of: Sequence[int] | RowIds,
        batch_size: int,
        n_groups_per_batch: int,
        seed: int,
        uniform_over_groups: bool = True,
        distinct_groups: bool = True,
    ):
        check_batch_size(batch_size)
        if n_groups_per_batch < 1 or batch_size % n_groups_per_batch:
            raise InputError(
                f"batch_size ({batch_size}) must be a multiple of n_groups_per_batch "
                f"({n_groups_per_batch}); change one of them"
            )
        if len(group_of) < batch_size:
            raise InputError(
                f"the split has {len(group_of)} images and one batch needs {batch_size}; lower --batch_size"
            )
        self._members = list(members_of(group_of).values())
        if distinct_groups and n_groups_per_batch > len(self._members):
            raise InputError(
                f"n_groups_per_batch ({n_groups_per_batch}) is more than the {len(self._members)} "
                "bio-batches of the split; lower it, or allow repeats with --distinct_groups false"
            )
        self.n_groups_per_batch = n_groups_per_batch
        self.rows_per_group = batch_size // n_groups_per_batch
        self.distinct_groups = distinct_groups
        sizes = np.array([len(rows) for rows in self._members])
        self._p = None if uniform_over_groups else sizes / sizes.sum()
        n_batches = len(group_of) // batch_size
        super().__init__(n_batches, n_batches * batch_size, seed)

    def batches(self, rng: np.random.Generator) -> Iterator[RowIds]:
        """Independent batches, as many as full ones fit into the split."""
        n, k = self.n_groups_per_batch, self.rows_per_group
        for _ in range(len(self)):
            groups = rng.choice(len(self._members), size=n, replace=not self.distinct_groups, p=self._p)
            drawn = [self._members[group] for group in groups]
            yield np.concatenate([rng.choice(rows, size=k, replace=len(rows) <= k) for rows in drawn])


class ShuffledSampler(BatchSampler):
    """WILDS' standard training loader: every row once in random order; the last batch may be smaller.

    Args:
        n: rows of the split.
        batch_size: rows of a batch.
        seed: of the order.
    """

    def __init__(self, n: int, batch_size: int, seed: int):
        check_batch_size(batch_size)
        self.n, self.batch_size = n, batch_size
        super().__init__(-(-n // batch_size), n, seed)

    def batches(self, rng: np.random.Generator) -> Iterator[RowIds]:
        """A random permutation, cut."""
        return _cut(rng.permutation(self.n), self.batch_size)


class BalancedSampler(BatchSampler):
    """WILDS' standard training loader with uniform_over_groups: draws with replacement, all groups alike.

    Args:
        group_of: (n,) bio-batch of each row.
        batch_size: rows of a batch; the last may be smaller.
        seed: of the draws.
    """

    def __init__(self, group_of: Sequence[int] | RowIds, batch_size: int, seed: int):
        check_batch_size(batch_size)
        self.batch_size = batch_size
        _, inverse, counts = np.unique(np.asarray(group_of), return_inverse=True, return_counts=True)
        self._p = 1 / (counts[inverse] * len(counts))
        n = len(self._p)
        super().__init__(-(-n // batch_size), n, seed)

    def batches(self, rng: np.random.Generator) -> Iterator[RowIds]:
        """As many independent draws as the split has rows, cut."""
        n = self.images_per_epoch
        return _cut(rng.choice(n, size=n, replace=True, p=self._p), self.batch_size)


class SequentialSampler(BatchSampler):
    """Every row once in dataset order, for evaluation.

    Args:
        n: rows of the split.
        batch_size: rows of a batch; the last may be smaller.
    """

    def __init__(self, n: int, batch_size: int):
        check_batch_size(batch_size)
        self.n, self.batch_size = n, batch_size
        super().__init__(-(-n // batch_size), n)

    def batches(self, rng: np.random.Generator) -> Iterator[RowIds]:
        """The same batches whatever rng."""
        return _cut(np.arange(self.n), self.batch_size)


class GroupedSampler(BatchSampler):
    """Every row once, each batch from one bio-batch, for evaluation with batch statistics.

    A bio-batch larger than batch_size is cut into batches whose sizes differ by at most one: statistics of a
    remainder of three images would be noise.

    Args:
        group_of: (n,) bio-batch of each row.
        batch_size: largest number of rows of a batch.
    """

    def __init__(self, group_of: Sequence[int] | RowIds, batch_size: int):
        check_batch_size(batch_size)
        self._chunks = [c for rows in members_of(group_of).values() for c in even_chunks(rows, batch_size)]
        super().__init__(len(self._chunks), len(group_of))

    def batches(self, rng: np.random.Generator) -> Iterator[RowIds]:
        """The same batches whatever rng, bio-batches in order of first appearance."""
        return iter(self._chunks)


def members_of(group_of: Sequence[int] | RowIds) -> dict[int, RowIds]:
    """The rows of each bio-batch, in dataset order; bio-batches in order of first appearance.

    >>> {group: rows.tolist() for group, rows in members_of([7, 3, 7]).items()}
    {7: [0, 2], 3: [1]}
    """
    groups, first, inverse = np.unique(np.asarray(group_of), return_index=True, return_inverse=True)
    rows = np.argsort(inverse, kind="stable")
    parts = np.split(rows, np.cumsum(np.bincount(inverse))[:-1])
    return {int(groups[k]): parts[k] for k in np.argsort(first)}


def even_chunks(rows: RowIds, most: int) -> list[RowIds]:
    """Rows cut into as few parts of at most `most` as possible, their sizes differing by at most one."""
    return np.array_split(rows, -(-len(rows) // most))


def _cut(rows: RowIds, batch_size: int) -> Iterator[RowIds]:
    return (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))


def check_bio_batches(members: Mapping[int, RowIds], batch_size: int, name_of: Callable[[int], str]) -> None:
    """Refuse bio-batches that are smaller than a batch.

    Raises:
        InputError: with how many there are and the smallest.
    """
    sizes = {group: len(rows) for group, rows in members.items()}
    smallest = min(sizes, key=lambda group: sizes[group])
    n, small = sizes[smallest], sum(size < batch_size for size in sizes.values())
    if not small:
        return
    advice = (
        f"use --batch_size {n} or lower, or larger bio-batches with"
        if n > 1
        else "batch norm needs two images, so leave this one out of training or group by experiment with"
    )
    raise InputError(
        f"batch_size ({batch_size}) is larger than {small:,} of {len(sizes):,} bio-batches (the smallest "
        f"has {n} image{'s' if n > 1 else ''}: {name_of(smallest)}); {advice} --groupby_fields experiment"
    )


def check_batch_size(batch_size: int) -> None:
    """Refuse batches without a row.

    Raises:
        InputError: with what came.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1; got {batch_size}")
