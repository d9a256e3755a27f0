"""Which square of each image is read: drawn where batches are drawn, so that workers draw nothing.

Letters: N rows of a batch, H side of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from abra_wilds.data.reading.packed import Window
from abra_wilds.data.samplers.batches import BatchRows, BatchSampler

DRAWS = 1  # keeps these draws apart from the sampler's own, which come from (seed, epoch)


class Request(NamedTuple):
    """One batch, as a worker is asked for it.

    Attributes:
        batch: its rows.
        windows: what is read of each image; None for all of it.
    """

    batch: BatchRows
    windows: list[Window] | None


class Requests:
    """The batches of a sampler, of whole images or of windows.

    Args:
        sampler: decides which rows make a batch.
        height: H.
        side: of the windows, None for whole images.
    """

    def __init__(self, sampler: BatchSampler, height: int, side: int | None = None):
        self.sampler = sampler
        self.height = height
        self.side = side

    def __iter__(self) -> Iterator[Request]:
        # Read once: an epoch that is set meanwhile is for the next pass.
        key = (self.sampler.seed, self.sampler.epoch)
        for batch in self.sampler:
            if self.side is None:
                yield Request(batch, None)
            else:
                yield Request(batch, draw_windows(batch.rows.tolist(), key, self.height, self.side))


def draw_windows(rows: Sequence[int], key: tuple[int, int], height: int, side: int) -> list[Window]:
    """A uniform window for each row of a batch, from (seed, epoch) and the batch's rows alone.

    So a batch has the same windows whichever process asks for it, and whatever came before it.

    Args:
        rows: N positions in the split.
        key: seed and epoch.
        height: H.
        side: of the windows, at most H.
    """
    rng = np.random.default_rng([*key, DRAWS, *rows])
    corners = rng.integers(height - side + 1, size=(len(rows), 2))  # (N, 2)
    return [(top, left, side) for top, left in corners.tolist()]
