"""Which rows make a batch: seeded by (seed, epoch) alone, so that no run depends on what ran before it.

Every sampler yields `BatchRows`, positions in the split, knows its exact number of batches, and starts a new
order with `set_epoch`. Bio-batches are the groups of a WILDS grouper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from abra_wilds.errors import InputError

RowIds = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False)
class BatchRows:
    """The rows of one batch.

    Attributes:
        rows: (N,) positions in the split.
        context: (N,) whether a row only lends the batch its statistics and is not learned from; None where
            there is none such.
    """

    rows: RowIds
    context: Mask | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def learned(self) -> RowIds:
        """The rows that are learned from."""
        return self.rows if self.context is None else self.rows[~self.context]


class BatchSampler:
    """A sequence of batches of rows that is redrawn each epoch.

    Attributes:
        whole: the sampler whose batches several processes share (distributed.py); without them itself.
        notes: what the log of a run should say of the batches, a sentence each.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, n_batches: int, images_per_epoch: int, seed: int = 0):
        self.whole: BatchSampler = self
        self.images_per_epoch = images_per_epoch
        self.seed = seed
        self.epoch = 0
        self._n_batches = n_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields."""
        self.epoch = epoch

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """The batches of one epoch, drawn from rng alone."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[BatchRows]:
        # A generator for each pass: an epoch is the same however often it is drawn, in full or not.
        return self.batches(np.random.default_rng([self.seed, self.epoch]))


class PlateSampler(BatchSampler):
    """Every bio-batch dealt out without replacement, each batch from one bio-batch (ABRA Eq. 3).

    A bio-batch smaller than batch_size is one smaller batch. One of a single row is left out, because its
    batch statistics would be those of one image.

    Args:
        group_of: (n,) bio-batch of each row.
        batch_size: largest number of rows of a batch; one more where a row would be left alone.
        seed: of the order.
        remainder: "even" cuts a bio-batch into ceil(n / batch_size) batches whose sizes differ by at most
            one, so that every row comes exactly once; "drop" keeps full batches only.
        name_of: the name of a bio-batch for messages.

    Raises:
        InputError: where every bio-batch has a single row.
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
        members = members_of(group_of)
        # Left out here and named by `small_notes`, which sees all of them.
        self._members = {group: rows for group, rows in members.items() if len(rows) > 1}
        if not self._members:
            raise InputError(
                f"each of the {len(members):,} bio-batches has one image, and batch norm needs two; group by "
                "fewer fields with --groupby_fields, such as experiment"
            )
        self.notes = tuple(small_notes(members, batch_size, name_of))
        chunks = [chunk for rows in self._members.values() for chunk in self._cut(rows)]
        super().__init__(len(chunks), sum(map(len, chunks)), seed)

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """The batches of one epoch, bio-batches interleaved at random."""
        # All are drawn before the first is given: where one stands in the epoch is the last of the draws.
        chunks = [chunk for rows in self._members.values() for chunk in self._cut(rng.permutation(rows))]
        return (BatchRows(chunks[k]) for k in rng.permutation(len(chunks)))

    def _cut(self, rows: RowIds) -> list[RowIds]:
        n, size = len(rows), self.batch_size
        if self.remainder == "even" or n < size:
            # At most n // 2 parts, so that none is a single row: of three rows in pairs, one batch has three.
            return np.array_split(rows, min(-(-n // size), max(n // 2, 1)))
        return list(rows[: n - n % size].reshape(-1, size))


class GroupSampler(BatchSampler):
    """WILDS' group loader: draw bio-batches, then rows from each; one epoch misses a part of the images.

    Rows of a bio-batch that has no more rows than are wanted of it are drawn with replacement, as in WILDS.
    Where there are fewer bio-batches than are wanted, all of them make a batch, and where the rows do not
    divide by them, a batch has fewer; `notes` say so.

    Args:
        group_of: (n,) bio-batch of each row.
        batch_size: most rows of a batch.
        n_groups_per_batch: most bio-batches drawn for a batch.
        seed: of the draws.
        uniform_over_groups: draw bio-batches uniformly rather than by their size.
        distinct_groups: whether the bio-batches of one batch must differ.

    Raises:
        InputError: for more bio-batches in a batch than rows.
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
        self._members = list(members_of(group_of).values())
        wanted, there = n_groups_per_batch, len(self._members)
        self.n_groups_per_batch = n = min(wanted, there) if distinct_groups else wanted
        if not 1 <= n <= batch_size:
            raise InputError(
                f"n_groups_per_batch ({wanted}) must lie between 1 and batch_size ({batch_size}); change one "
                "of them"
            )
        self.rows_per_group = batch_size // n
        self.distinct_groups = distinct_groups
        sizes = np.array([len(rows) for rows in self._members])
        self._p = None if uniform_over_groups else sizes / sizes.sum()
        size = n * self.rows_per_group
        if (n, size) != (wanted, batch_size):
            of = "" if n == wanted else f", since the split has {there} of the {wanted} that were asked for"
            note = f"a batch has {size} images, {self.rows_per_group} of each of {n} bio-batches{of}"
            self.notes = (note,)
        n_batches = max(len(group_of) // size, 1)  # a split smaller than a batch still has one
        super().__init__(n_batches, n_batches * size, seed)

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """Independent batches, as many as full ones fit into the split."""
        n, k = self.n_groups_per_batch, self.rows_per_group
        for _ in range(len(self)):
            groups = rng.choice(len(self._members), size=n, replace=not self.distinct_groups, p=self._p)
            drawn = [self._members[group] for group in groups]
            # <=, not <: WILDS draws k of k rows with replacement too.
            parts = [rng.choice(rows, size=k, replace=len(rows) <= k) for rows in drawn]
            yield BatchRows(np.concatenate(parts))


class ShuffledSampler(BatchSampler):
    """WILDS' standard training loader: every row once in random order; the last batch may be smaller.

    A single row that would be left for it joins the batch before, because batch norm needs two.

    Args:
        n: rows of the split.
        batch_size: rows of a batch.
        seed: of the order.
        least: rows of the last batch at least, 1 or 2.
    """

    def __init__(self, n: int, batch_size: int, seed: int, least: int = 2):
        check_batch_size(batch_size)
        self.n, self.batch_size = n, batch_size
        super().__init__(_batches_of(n, batch_size, least), n, seed)

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """A random permutation, cut."""
        return _cut_in(rng.permutation(self.n), self.batch_size, len(self))


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
        # Each bio-batch has a like share of the probability, and its rows divide it evenly.
        self._p = 1 / (counts[inverse] * len(counts))
        n = len(self._p)
        super().__init__(_batches_of(n, batch_size), n, seed)

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """As many independent draws as the split has rows, cut."""
        n = self.images_per_epoch
        return _cut_in(rng.choice(n, size=n, replace=True, p=self._p), self.batch_size, len(self))


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

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """The same batches whatever rng."""
        return _cut_in(np.arange(self.n), self.batch_size, len(self))


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

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """The same batches whatever rng, bio-batches in order of first appearance."""
        return map(BatchRows, self._chunks)


def members_of(group_of: Sequence[int] | RowIds) -> dict[int, RowIds]:
    """The rows of each bio-batch, in dataset order; bio-batches in order of first appearance.

    >>> {group: rows.tolist() for group, rows in members_of([7, 3, 7]).items()}
    {7: [0, 2], 3: [1]}
    """
    groups, first, inverse = np.unique(np.asarray(group_of), return_index=True, return_inverse=True)
    # One stable sort; a search for each bio-batch would pass over the split once for each of them.
    rows = np.argsort(inverse, kind="stable")
    parts = np.split(rows, np.cumsum(np.bincount(inverse))[:-1])
    return {int(groups[k]): parts[k] for k in np.argsort(first)}


def even_chunks(rows: RowIds, most: int) -> list[RowIds]:
    """Rows cut into as few parts of at most `most` as possible, their sizes differing by at most one."""
    return np.array_split(rows, -(-len(rows) // most))


def _batches_of(n: int, batch_size: int, least: int = 2) -> int:
    """Number of batches of n rows, of which the last has so many rows at least, unless all have fewer."""
    return -(-n // batch_size) - (0 < n % batch_size < least <= batch_size < n)


def _cut_in(rows: RowIds, batch_size: int, n_batches: int) -> Iterator[BatchRows]:
    """Rows cut into so many batches; the last takes what is left."""
    return map(BatchRows, np.split(rows, range(batch_size, n_batches * batch_size, batch_size)))


def small_notes(
    members: Mapping[int, RowIds], batch_size: int, name_of: Callable[[int], str]
) -> Iterator[str]:
    """What to say of bio-batches that do not fill a batch.

    Args:
        members: rows of each bio-batch.
        batch_size: rows of a full batch.
        name_of: the name of a bio-batch.
    """
    sizes = {group: len(rows) for group, rows in members.items()}
    small = {group: n for group, n in sizes.items() if 1 < n < batch_size}
    alone = [group for group, n in sizes.items() if n == 1]
    if small:
        least = min(small, key=lambda group: small[group])
        yield (
            f"{len(small):,} of {len(sizes):,} bio-batches have fewer than {batch_size} images and make "
            f"smaller batches (the smallest has {small[least]}: {name_of(least)})"
        )
    if alone:
        yield (
            f"{len(alone):,} images are alone in their bio-batches and are left out of training "
            f"(the first: {name_of(alone[0])})"
        )


def check_batch_size(batch_size: int) -> None:
    """Refuse batches without a row.

    Raises:
        InputError: with what came.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1; got {batch_size}")
