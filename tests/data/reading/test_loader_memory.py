"""What worker processes hold for themselves over an epoch."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from abra_wilds.data.reading.loaders import Loader
from abra_wilds.data.samplers.batches import SequentialSampler

N, BATCH = 80_000, 120
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(),
    reason="the kernel does not say what memory a process shares",
)


class Screen:
    """A long data set with one path a row, as WILDS holds them, and images that cost nothing."""

    data_dir = Path("data")

    def __init__(self):
        names = (
            f"images/HEPG2-08/Plate1/a_name_as_long_as_those_of_some_other_screen_s{i}.png" for i in range(N)
        )
        self._input_array = np.array(list(names), dtype=object)

    def get_input(self, row):
        # Not by pathlib, which now and then makes Python's table of interned names grow: 3 MiB at once.
        assert str(self._input_array[row]).endswith(f"_s{row}.png")
        return torch.zeros(1, 2, 2, dtype=torch.uint8)


class Split:
    """All rows of it."""

    def __init__(self):
        self.dataset, self.indices = Screen(), np.arange(N)
        self.y_array, self.metadata_array = torch.zeros(N), torch.zeros(N, 6, dtype=torch.int64)


class OneGroup:
    def metadata_to_group(self, metadata):
        return metadata[:, 0]


def private(processes):
    """MiB written and shared with no other process, summed over the processes."""
    lines = [line for p in processes for line in Path(f"/proc/{p.pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) / 1024


def grown():
    """MiB by which two workers grow over the last two thirds of an epoch, and how many workers were found."""
    loader = Loader(Split(), OneGroup(), SequentialSampler(N, BATCH), side=2, num_workers=2)
    batches = iter(loader)
    for _ in range(N // BATCH // 3):
        next(batches)
    workers = multiprocessing.active_children()
    warm = private(workers)
    for _ in batches:
        pass
    return private(workers) - warm, len(workers)


def test_workers_do_not_grow_over_an_epoch():
    """Paths as Python strings, 10 MiB of them here, would be copied into each worker as it comes by them.

    In a fresh process: forked from one that has run other tests, they also copy what the collector marks.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        growth, workers = fresh.submit(grown).result()
    assert workers == 2 and growth < 4, "MiB; with strings it would be 9"
