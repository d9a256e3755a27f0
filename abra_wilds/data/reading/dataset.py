"""The images of a split by row: what worker processes read, and how rows become the columns of a batch.

Letters: N rows of a batch, n rows of the split, F metadata fields, C H W of an image.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from abra_wilds.data.reading.crops import Request
from abra_wilds.data.reading.images import Form, check_form, image_path, read_image
from abra_wilds.data.reading.packed import Window, cut
from abra_wilds.types import Batch, InputError, Target, ordered

if TYPE_CHECKING:
    from wilds.common.grouper import CombinatorialGrouper
    from wilds.datasets.wilds_dataset import WILDSSubset


@dataclass(frozen=True)
class Fault:
    """What is wrong with an image, as a value: an exception in a worker would arrive inside a traceback."""

    message: str


class Columns(NamedTuple):
    """A batch on its way from a worker: what a `Batch` is made of.

    Bio-batches come as `ordered`, not as a tensor each: every tensor costs a file descriptor and a message on
    its way, and a batch may have dozens of bio-batches.

    Attributes:
        x, y, g, metadata, rows, context: as in `Batch`.
        order, sizes: the rows of the batch by bio-batch, (N,), and how many each has.
    """

    x: Tensor
    y: Tensor
    g: Tensor
    metadata: Tensor
    rows: Tensor
    order: Tensor
    sizes: list[int]
    context: Tensor | None

    def batch(self, cropped: bool) -> Batch:
        """The same as a `Batch`, whose images are windows or whole."""
        groups = torch.split(self.order, self.sizes)
        return Batch(
            self.x,
            Target(self.y),
            self.g,
            self.metadata,
            self.rows,
            groups,
            context=self.context,
            cropped=cropped,
        )


class ImageDataset(Dataset[Columns | Fault]):
    """The images of a split, (C, H, W) uint8 or uint16, with what a batch needs to know of each row.

    Nothing in it is a Python object a row. Workers share this process's memory until they write to it, and
    whoever looks at a Python object writes its count of references: lists of paths would be copied into each
    worker in the course of an epoch.

    Attributes:
        first: the split's first image.
        form: its size and depth; every other image must have them.
        y: (n,) int64 class ids.
        g: (n,) int64 bio-batch ids.
        metadata: (n, F) int64.

    Raises:
        InputError: if the split's first image cannot be read.
    """

    def __init__(self, subset: WILDSSubset, grouper: CombinatorialGrouper):
        self.dataset = copy.copy(subset.dataset)  # whose own array of paths stays as WILDS made it
        self.dataset._input_array = np.asarray(subset.dataset._input_array, dtype=str)
        self.indices = np.asarray(subset.indices)
        self.y = torch.as_tensor(subset.y_array).long()
        self.metadata = subset.metadata_array.long()
        self.g = grouper.metadata_to_group(subset.metadata_array)
        first = int(self.indices[0])
        self.first, self.form = image_path(self.dataset, first), Form.of(read_image(self.dataset, first))

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""
        return self.form.shape

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, request: Request) -> Columns | Fault:
        """A batch, or the first fault among its images."""
        batch, windows = request
        images = []
        for row, window in zip(batch.rows.tolist(), windows or repeat(None), strict=False):
            try:
                images.append(self.image(int(self.indices[row]), window))
            except InputError as fault:
                return Fault(str(fault))
        rows = torch.tensor(batch.rows)  # a copy: samplers may hand out the same array every epoch
        g = self.g[rows]
        context = None if batch.context is None else torch.tensor(batch.context)
        # In a worker torch's own collation stacks into shared memory, which saves copying the batch there.
        x = default_collate(images)
        return Columns(x, self.y[rows], g, self.metadata[rows], rows, *ordered(g), context)

    def image(self, row: int, window: Window | None) -> Tensor:
        """The image of a row of the data set, or a window of it.

        Raises:
            InputError: if it cannot be read, or is not like the split's first.
        """
        if getattr(self.dataset, "pack", None) is not None:  # whose images are alike
            return read_image(self.dataset, row, window)
        # A file is decoded whole whatever is wanted of it, and only then known to be like the others.
        x, path = read_image(self.dataset, row), image_path(self.dataset, row)
        check_form(path, Form.of(x), self.form, self.first)
        return x[cut(self.shape, window, str(path))]
