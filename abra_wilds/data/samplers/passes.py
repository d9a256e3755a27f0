"""Which images go through the network together, where their common statistics predict them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from abra_wilds.data.samplers.batches import BatchRows, BatchSampler, RowIds, even_chunks


@dataclass(frozen=True)
class BioBatch:
    """One bio-batch of a split, as it is predicted.

    Attributes:
        passes: rows of each forward pass.
        adapted: whether statistics are taken from it; if not, the running ones predict it.
    """

    passes: tuple[RowIds, ...]
    adapted: bool

    def __len__(self) -> int:
        return sum(map(len, self.passes))


class PassSampler(BatchSampler):
    """Every row once, pass by pass, each pass read in near-equal batches.

    A plate is one pass but not one batch: the images that workers hand over lie in shared memory, of which
    there is little.

    Args:
        plan: the bio-batches in the order of prediction.
        batch_size: most rows that are read at once.

    Attributes:
        plan: the same.
    """

    def __init__(self, plan: Sequence[BioBatch], batch_size: int):
        self.plan = tuple(plan)
        self.batch_size = batch_size
        self._chunks = [[even_chunks(rows, batch_size) for rows in group.passes] for group in self.plan]
        n_batches = sum(len(chunks) for group in self._chunks for chunks in group)
        super().__init__(n_batches, sum(map(len, self.plan)))

    @property
    def reads(self) -> list[list[int]]:
        """For each bio-batch, in how many batches each of its passes is read."""
        return [[len(chunks) for chunks in group] for group in self._chunks]

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """The same batches whatever rng."""
        return (BatchRows(chunk) for group in self._chunks for chunks in group for chunk in chunks)
