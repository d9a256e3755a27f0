"""Which batches of a split each process takes: whole ones, so that no bio-batch is torn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

import numpy as np

from abra_wilds.data.samplers.batches import BatchRows, BatchSampler
from abra_wilds.data.samplers.passes import PassSampler
from abra_wilds.dist import rank, world


class Rounds(BatchSampler):
    """One process's batches of a training epoch: of every `world` in a row, its own.

    All processes take equally many. Where the batches do not come out even, the epoch's first ones fill the
    last round, so that every image is still learned from.

    Attributes:
        repeated: batches that come twice.

    Args:
        whole: the same on all processes.
        rank: of this process.
        world: processes; at most as many as there are batches.
    """

    def __init__(self, whole: BatchSampler, rank: int, world: int):
        super().__init__(-(-len(whole) // world), whole.images_per_epoch, whole.seed)
        self.whole = whole
        self.rank, self.world = rank, world
        self.repeated = -len(whole) % world
        self.set_epoch(whole.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; its images are those of all processes together."""
        super().set_epoch(epoch)
        self.whole.set_epoch(epoch)
        repeats = islice(self.whole, self.repeated)
        self.images_per_epoch = self.whole.images_per_epoch + sum(map(len, repeats))

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """Every process draws all batches and keeps its own."""
        # By the same seed and epoch all draw alike, so nothing crosses between them.
        drawn = self.whole.batches(rng)
        first = list(islice(drawn, self.repeated))
        return islice(chain(first, drawn, first), self.rank, None, self.world)


class DistributedBatches(BatchSampler):
    """One process's batches of an evaluation: each batch is some process's, none comes twice."""

    def __init__(self, whole: BatchSampler, rank: int, world: int):
        super().__init__(len(range(rank, len(whole), world)), whole.images_per_epoch, whole.seed)
        self.whole = whole
        self.rank, self.world = rank, world

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """Every `world`-th batch."""
        return islice(self.whole.batches(rng), self.rank, None, self.world)


def training_share(sampler: BatchSampler) -> BatchSampler:
    """What this process trains on; with one process the sampler itself."""
    return sampler if world() == 1 else Rounds(sampler, rank(), world())


def evaluation_share(sampler: BatchSampler) -> BatchSampler:
    """What this process predicts: whole bio-batches where they are adapted to, else batches."""
    if world() == 1:
        return sampler
    if not isinstance(sampler, PassSampler):
        return DistributedBatches(sampler, rank(), world())
    # By bio-batch, not by batch: the statistics of one are of all its images, so one process reads them all.
    share = PassSampler(sampler.plan[rank() :: world()], sampler.batch_size)
    share.whole = sampler
    return share
