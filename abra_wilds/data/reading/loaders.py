"""From rows on disk to `Batch`: the same batches whatever the number of worker processes.

Letters: N rows of a batch, n rows of the split, F metadata fields, C H W of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np
import torch
from torch.utils.data import DataLoader

from abra_wilds.config.data import TRAIN_LOADERS
from abra_wilds.data.datasets.controls import control_rows
from abra_wilds.data.reading.crops import Requests
from abra_wilds.data.reading.dataset import Columns, Fault, ImageDataset
from abra_wilds.data.samplers.batches import (
    BalancedSampler,
    BatchSampler,
    GroupedSampler,
    GroupSampler,
    PlateSampler,
    SequentialSampler,
    ShuffledSampler,
)
from abra_wilds.data.samplers.distributed import evaluation_share, training_share
from abra_wilds.data.samplers.paired import ControlSampler, PairSampler
from abra_wilds.dist import world
from abra_wilds.errors import WORKER_KILLED, RunAborted
from abra_wilds.types import Batch, InputError

if TYPE_CHECKING:
    from wilds.common.grouper import CombinatorialGrouper
    from wilds.datasets.wilds_dataset import WILDSSubset


class Reading(TypedDict, total=False):
    """How a `Loader` reads, whatever its batches are; see there."""

    num_workers: int
    pin_memory: bool


class Loader:
    """The batches of one epoch of a split, as `Batch`es on the host.

    Attributes:
        rows: its images.
        sampler: decides which rows make a batch.
        grouper: names the bio-batches.

    Args:
        subset: a WILDS subset.
        grouper: defines the bio-batches.
        sampler: which rows make a batch.
        side: of a random square of each image, at most its height and width, which is then all that is read;
            None for whole images.
        num_workers: processes that read images; 0 reads in this one.
        pin_memory: page-locked batches, for a copy to a GPU that does not wait.
    """

    def __init__(
        self,
        subset: WILDSSubset,
        grouper: CombinatorialGrouper,
        sampler: BatchSampler,
        *,
        side: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ):
        self.rows = ImageDataset(subset, grouper)
        self.sampler = sampler
        self.grouper = grouper
        self._requests = Requests(sampler, self.rows.shape[1], side)
        self._reading: Reading = {"num_workers": num_workers, "pin_memory": pin_memory}
        self._loader = self._reader()

    @property
    def images_per_epoch(self) -> int:
        """Number of images of one epoch, repeats included."""
        return self.sampler.images_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration yields."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        for columns in self._arriving():
            if isinstance(columns, Fault):
                # Let go of the workers now: kept by a traceback until it is collected, they take 10 s to end.
                self._loader = self._reader()
                raise InputError(columns.message)
            yield columns.batch(cropped=self._requests.side is not None)

    def _arriving(self) -> Iterator[Columns | Fault]:
        """What torch's loader brings.

        Raises:
            RunAborted: when a worker was killed while it handed a batch over, of which torch tells as of a
                broken connection.
        """
        try:
            yield from self._loader
        except (ConnectionError, EOFError) as fault:
            # What a worker itself has met comes with torch's preface.
            if self._reading["num_workers"] == 0 or str(fault).startswith("Caught "):
                raise
            raise RunAborted(WORKER_KILLED) from fault

    def _reader(self) -> DataLoader[Columns | Fault]:
        """Torch's loader, which gives each worker one thread; its batches are made by `ImageDataset`.

        Its generator is its own: the seed of its workers would otherwise come from the global one, and a run
        depend on how often it evaluated.
        """
        return DataLoader(
            self.rows,
            batch_size=None,
            sampler=self._requests,
            # Kept from epoch to epoch, and with them the files of a pack that they have mapped.
            persistent_workers=self._reading["num_workers"] > 0,
            generator=torch.Generator().manual_seed(0),
            **self._reading,
        )


def make_train_loader(
    subset: WILDSSubset,
    grouper: CombinatorialGrouper,
    *,
    train_loader: str,
    batch_size: int,
    n_groups_per_batch: int = 1,
    uniform_over_groups: bool | None = None,
    distinct_groups: bool = True,
    remainder: str = "even",
    pairs_cross: bool = True,
    n_controls: int = 0,
    seed: int = 0,
    side: int | None = None,
    **reading: Unpack[Reading],
) -> Loader:
    """The training loader of a name; long for its list of arguments alone.

    Args:
        subset: the training split.
        grouper: defines the bio-batches.
        train_loader: "plate" (each image once, each batch one bio-batch), WILDS' "group" and "standard",
            "pairs" (images and partners of their class) or "controls" ("plate" with the plate's controls as
            context).
        batch_size: rows of a batch; for "plate" and "controls" the largest number that is learned from.
        n_groups_per_batch: bio-batches of a batch ("group").
        uniform_over_groups: draw bio-batches alike; None is WILDS' default, true for "group", else false.
        distinct_groups: whether the bio-batches of a batch must differ ("group").
        remainder: "even" or "drop" ("plate").
        pairs_cross: whether partners come from another bio-batch ("pairs").
        n_controls: controls added to a batch, 0 for all ("controls").
        seed: of the order; the epoch is added by `set_epoch`.
        side: of the windows that are read, None for whole images.
        reading: as of `Loader`.

    Raises:
        InputError: for an unknown loader or batches that cannot be made.
    """
    group_of = grouper.metadata_to_group(subset.metadata_array).numpy()
    sampler: BatchSampler
    if train_loader == "plate":
        sampler = PlateSampler(group_of, batch_size, seed, remainder, name_of=grouper.group_str)
    elif train_loader == "group":
        uniform = uniform_over_groups is not False  # WILDS' default differs between its two loaders
        sampler = GroupSampler(group_of, batch_size, n_groups_per_batch, seed, uniform, distinct_groups)
    elif train_loader == "standard" and uniform_over_groups:
        sampler = BalancedSampler(group_of, batch_size, seed)
    elif train_loader == "standard":
        sampler = ShuffledSampler(len(subset), batch_size, seed)
    elif train_loader == "pairs":
        sampler = PairSampler(group_of, subset.y_array.numpy(), batch_size, seed, pairs_cross)
    elif train_loader == "controls":
        # Known of the whole data set's rows; samplers count rows of the split.
        is_control = control_rows(subset.dataset)[np.asarray(subset.indices)]
        sampler = ControlSampler(group_of, is_control, batch_size, seed, n_controls, grouper.group_str)
    else:
        raise InputError(f"unknown train_loader {train_loader!r}; choose {', '.join(TRAIN_LOADERS)}")
    return Loader(subset, grouper, training_share(sampler), side=side, **reading)


def make_plain_loader(
    subset: WILDSSubset, grouper: CombinatorialGrouper, batch_size: int, **reading: Unpack[Reading]
) -> Loader:
    """Every image of the training split, bio-batches mixed, in the same near-equal batches every time.

    One process reads each image once; of several, some repeat a batch so that all have as many.

    Batch-norm statistics are estimated over them, whatever the batches of training are, so that all methods
    predict by statistics of the same images, and deeper layers see what prediction will show them.

    Args:
        subset: the training split.
        grouper: names the bio-batches.
        batch_size: largest number of rows of a batch.
        reading: as of `Loader`.
    """
    n = len(subset)
    # All images as one bio-batch, cut into near-equal batches of which each process has at least one.
    sampler = PlateSampler(np.zeros(n, dtype=np.int64), min(batch_size, max(n // world(), 1)), seed=0)
    return Loader(subset, grouper, training_share(sampler), **reading)


def make_eval_loader(
    subset: WILDSSubset,
    grouper: CombinatorialGrouper,
    *,
    eval_loader: str,
    batch_size: int,
    **reading: Unpack[Reading],
) -> Loader:
    """The evaluation loader of a name: every image once.

    Args:
        subset: the split.
        grouper: defines the bio-batches.
        eval_loader: "standard" is dataset order; "group" gives batches of one bio-batch each.
        batch_size: largest number of rows of a batch.
        reading: as of `Loader`.

    Raises:
        InputError: for an unknown loader.
    """
    sampler: BatchSampler
    if eval_loader == "standard":
        sampler = SequentialSampler(len(subset), batch_size)
    elif eval_loader == "group":
        sampler = GroupedSampler(grouper.metadata_to_group(subset.metadata_array).numpy(), batch_size)
    else:
        raise InputError(f"unknown eval_loader {eval_loader!r}; choose standard or group")
    return Loader(subset, grouper, evaluation_share(sampler), **reading)


def coverage(loader: Loader) -> float:
    """Share of the split's images that the sampler's current epoch learns from, without reading any.

    Exact where every epoch touches as many images; of a random loader it is one draw, close to its
    expectation for a large split.
    """
    # `whole`: of several processes each has a share, and together they learn from all.
    learned = np.concatenate([batch.learned for batch in loader.sampler.whole])
    return len(np.unique(learned)) / len(loader.rows)
