"""Which square of each image is read: drawn where batches are drawn, so that workers draw nothing.

Letters: N rows of a batch, H side of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from abra_wilds.data.reading.packed import Window
from abra_wilds.data.samplers.batches import BatchSampler

# A row as samplers give it, and the window that is read of its image: None for all of it.
Item = tuple[int, Window | None]
DRAWS = 1  # keeps these draws apart from the sampler's own, which come from (seed, epoch)


class CropBatchSampler:
    """What workers are asked for: the batches of a sampler, of whole images or of windows.

    Attributes:
        side: of the windows, None for whole images; an iteration keeps what it finds when it starts.

    Args:
        sampler: decides which rows make a batch.
        height: H.
    """

    def __init__(self, sampler: BatchSampler, height: int):
        self.sampler = sampler
        self.height = height
        self.side: int | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[Item]]:
        side, seed, epoch = self.side, self.sampler.seed, self.sampler.epoch
        for rows in self.sampler:
            if side is None:
                yield [(row, None) for row in rows]
            else:
                yield list(zip(rows, draw_windows(rows, (seed, epoch), self.height, side), strict=True))


def draw_windows(rows: Sequence[int], key: tuple[int, int], height: int, side: int) -> list[Window]:
    """A uniform window for each row of a batch, from (seed, epoch) and the batch's rows alone.

    So a batch has the same windows whichever process asks for it, and whatever came before it.

    Args:
        rows: N positions in the split, ~row for rows that are not learned from.
        key: seed and epoch.
        height: H.
        side: of the windows, at most H.
    """
    rng = np.random.default_rng([*key, DRAWS, *(max(row, ~row) for row in rows)])
    corners = rng.integers(height - side + 1, size=(len(rows), 2))  # (N, 2)
    return [(top, left, side) for top, left in corners.tolist()]
