"""Which rows come into a batch for another row's sake: partners of a class, control wells of a bio-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from abra_wilds.data.samplers.batches import (
    BatchRows,
    BatchSampler,
    Mask,
    RowIds,
    ShuffledSampler,
    check_batch_size,
    members_of,
)
from abra_wilds.errors import InputError


class PairSampler(BatchSampler):
    """Every row once in random order, and for each a partner of its class (LISA, arXiv 2201.00299).

    The first half of a batch are the rows, the second half their partners in the same order. A partner is
    drawn uniformly from the rows of its class in other bio-batches. A class that has none elsewhere takes
    another of its own rows, and a class of one row that row itself; `same_group` counts the rows this happens
    to.

    Args:
        group_of: (n,) bio-batch of each row.
        class_of: (n,) class of each row.
        batch_size: rows of a batch, partners included; the last batch may be smaller.
        seed: of the draws.
        cross: whether partners come from other bio-batches; if not, from all rows of the class, the row
            itself included, as in LISA's published code.

    Attributes:
        same_group: number of rows whose partner should cross and cannot.

    Raises:
        InputError: for an odd batch_size.
    """

    def __init__(
        self,
        group_of: Sequence[int] | RowIds,
        class_of: Sequence[int] | RowIds,
        batch_size: int,
        seed: int,
        cross: bool = True,
    ):
        if batch_size < 2 or batch_size % 2:
            raise InputError(
                f"batch_size ({batch_size}) must be even for the pairs loader: half of a batch are images, "
                "half their partners; change it by one"
            )
        groups, classes = np.asarray(group_of), np.asarray(class_of)
        n = len(groups)
        self._firsts = ShuffledSampler(n, batch_size // 2, seed, least=1)
        # Sorted by class and in it by bio-batch, the rows that no partner may be are one run of the class.
        self._order = np.lexsort((groups, classes))
        self._place = np.empty(n, dtype=np.int64)
        self._place[self._order] = np.arange(n)
        groups, classes = groups[self._order], classes[self._order]
        new_class = classes[1:] != classes[:-1]
        self._start, stop = _runs(new_class)
        self._size = stop - self._start
        self._banned, banned_stop = _runs(new_class | (groups[1:] != groups[:-1]))
        self._n_banned = banned_stop - self._banned
        lonely = self._n_banned == self._size
        # A class within one bio-batch: only the row itself is forbidden, and not even that where it is alone.
        self._banned[lonely] = np.flatnonzero(lonely)
        self._n_banned[lonely] = np.minimum(self._size[lonely] - 1, 1)
        self.same_group = int(lonely.sum()) if cross else 0
        if not cross:
            self._n_banned[:] = 0
        super().__init__(len(self._firsts), 2 * n, seed)

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """Rows, then their partners, batch by batch."""
        for first in self._firsts.batches(rng):
            yield BatchRows(np.concatenate([first.rows, self.partners(first.rows, rng)]))

    def partners(self, rows: RowIds, rng: np.random.Generator) -> RowIds:
        """A partner of each row, (k,)."""
        at = self._place[rows]
        # One draw among the allowed rows of the class, moved past the run of the forbidden ones.
        drawn = self._start[at] + rng.integers(self._size[at] - self._n_banned[at])
        drawn += np.where(drawn >= self._banned[at], self._n_banned[at], 0)
        partners: RowIds = self._order[drawn]
        return partners


class ControlSampler(BatchSampler):
    """Every bio-batch dealt out without replacement, and with each part the bio-batch's other control wells.

    A batch holds at most `batch_size` rows to learn from, controls among them in like number, and after them
    controls as context. So no row comes twice in a batch, and its statistics are those of the part and of the
    bio-batch's controls together (CS-ARM-BN, arXiv 2604.20824).

    Args:
        group_of: (n,) bio-batch of each row.
        is_control: (n,) whether a row shows a control well.
        batch_size: largest number of rows of a batch that are learned from.
        seed: of the order.
        n_controls: controls added to a batch; 0 adds all that are not in it already.
        name_of: the name of a bio-batch for error messages.

    Raises:
        InputError: for a bio-batch without controls.
    """

    def __init__(
        self,
        group_of: Sequence[int] | RowIds,
        is_control: Mask,
        batch_size: int,
        seed: int,
        n_controls: int = 0,
        name_of: Callable[[int], str] = str,
    ):
        check_batch_size(batch_size)
        self.batch_size, self.n_controls = batch_size, n_controls
        self._members = []
        for group, rows in members_of(group_of).items():
            control = is_control[rows]
            if not control.any():
                raise InputError(
                    f"the controls loader needs control wells in every bio-batch, and {name_of(group)} has "
                    "none among the training images; raise --frac or use another --train_loader"
                )
            self._members.append((rows[control], rows[~control]))
        n_batches = sum(self._parts(*members) for members in self._members)
        # Counted without a draw: part k learns from controls k, k + parts, ... and lacks the rest.
        added = sum(
            min(n_controls or len(controls), len(controls) - len(range(k, len(controls), parts)))
            for controls, others in self._members
            for parts in [self._parts(controls, others)]
            for k in range(parts)
        )
        super().__init__(n_batches, len(is_control) + added, seed)

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """The batches of one epoch, bio-batches interleaved at random."""
        made = [batch for members in self._members for batch in self._deal(*members, rng)]
        for k in rng.permutation(len(made)):
            yield made[k]

    def _parts(self, controls: RowIds, others: RowIds) -> int:
        return -(-(len(controls) + len(others)) // self.batch_size)

    def _deal(self, controls: RowIds, others: RowIds, rng: np.random.Generator) -> Iterator[BatchRows]:
        """One bio-batch's batches, dealt round by round: neither size nor share of controls varies much."""
        parts, controls = self._parts(controls, others), rng.permutation(controls)
        order = np.concatenate([controls, rng.permutation(others)])
        for k in range(parts):
            # `order` begins with the controls, so those of part k are k, k + parts, ... in both.
            left = np.delete(controls, slice(k, None, parts))
            added = rng.permutation(left)[: self.n_controls] if self.n_controls else left
            rows = np.concatenate([order[k::parts], added])
            yield BatchRows(rows, np.arange(len(rows)) >= len(rows) - len(added) if len(added) else None)


def _runs(changes: Mask) -> tuple[RowIds, RowIds]:
    """Start and stop, (n,) each, of the run that each position lies in.

    Args:
        changes: (n - 1,) whether position i + 1 begins a new run.
    """
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    lengths = np.diff(np.concatenate([starts, [len(changes) + 1]]))
    return np.repeat(starts, lengths), np.repeat(starts + lengths, lengths)
