"""The batches of `PlateSampler` for any torch DataLoader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.utils.data import Sampler

from abra_wilds.data.samplers.batches import BatchSampler, PlateSampler
from abra_wilds.data.samplers.distributed import Rounds
from abra_wilds.dist import rank as own_rank
from abra_wilds.dist import world as all_ranks
from abra_wilds.errors import InputError
from abra_wilds.types import integers


class PlateBatchSampler(Sampler[list[int]]):
    """Every bio-batch dealt out without replacement, each batch from one bio-batch (ABRA Eq. 3).

    `DataLoader(dataset, batch_sampler=PlateBatchSampler(plate, 32))`. Sizes of a bio-batch's batches differ
    by at most one; a bio-batch of a single image is left out, as `notes` says. An epoch is a function of
    (seed, epoch): call `set_epoch` before each. Of several processes each takes batches of its own, all
    equally many.

    Args:
        bio_batch: (n,) ids of the data set's rows, any integers.
        batch_size: most images of a batch; one more where an image would be left alone.
        seed: of the order.
        rank: of this process; None asks torch.distributed.
        world: processes; None asks torch.distributed.

    Attributes:
        notes: what to know of the batches, a sentence each.

    Raises:
        InputError: for ids that are no integers, bio-batches of one image each, or fewer batches than
            processes.
    """

    def __init__(
        self,
        bio_batch: Tensor | Sequence[int],
        batch_size: int,
        seed: int = 0,
        *,
        rank: int | None = None,
        world: int | None = None,
    ):
        ids = integers("bio_batch", bio_batch, len(bio_batch)).numpy(force=True)
        whole = PlateSampler(ids, batch_size, seed)
        rank = own_rank() if rank is None else rank
        world = all_ranks() if world is None else world
        if not 0 <= rank < world <= len(whole):
            raise InputError(
                f"rank {rank} of {world} cannot take batches of {len(whole)}; ranks count from 0, and each "
                "process takes one batch or more: lower batch_size or start fewer processes"
            )
        self.notes = whole.notes
        self._batches: BatchSampler = whole if world == 1 else Rounds(whole, rank, world)

    @property
    def sampler(self) -> PlateBatchSampler:
        """Itself: where Lightning looks for a `set_epoch` to call."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields."""
        self._batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.rows.tolist() for batch in self._batches)
