"""Random images in a pack, and the loader of a benchmark's rounds over them.

Random bytes cost what real ones cost to read, and are made as fast as a disk takes them. Names, tables and
files are those of RxRx1's training plates, of which 33 experiments have four each.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from abra_wilds.config.run import RunConfig
from abra_wilds.data.augment.transforms import crop_side
from abra_wilds.data.datasets.catalogue import data_info, load_dataset, make_grouper, split_subset
from abra_wilds.data.datasets.controls import N_CLASSES
from abra_wilds.data.reading.facts import table_digests
from abra_wilds.data.reading.images import Form
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.data.reading.pack import from_files, write_index, write_plates
from abra_wilds.data.reading.pack_plate import Plan, plates_of, read_plate_table
from abra_wilds.data.reading.packed import pack_folder
from abra_wilds.data.samplers.batches import BatchRows, BatchSampler, PlateSampler
from abra_wilds.engine.setup import reading_kwargs
from abra_wilds.errors import InputError
from abra_wilds.simulate.design import WELL_NAMES
from abra_wilds.types import DataInfo

# Data set -> its folder, and (C, H, W) of its images.
SHAPES = {"rxrx1": ("rxrx1_v1.0", (3, 256, 256)), "rxrx1_6ch": ("rxrx1", (6, 512, 512))}
SHARED = Path("/dev/shm")
# Training experiments of each cell line.
LINES = {"HEPG2": 7, "HUVEC": 16, "RPE": 7, "U2OS": 3}
PLATES = tuple(
    (line, f"{line}-{number:02}", plate)
    for line, count in LINES.items()
    for number, plate in itertools.product(range(1, count + 1), range(1, 5))
)


def check_random(name: str, folder: Path, args: argparse.Namespace) -> int:
    """How many plates of random images --gigabytes allow; says what they need.

    Raises:
        InputError: if plates are too small for a batch or too few for a round, or disk or memory for them.
    """
    if not args.batch_size <= args.wells <= len(WELL_NAMES):
        raise InputError(
            f"--wells is {args.wells} and a batch of one plate takes {args.batch_size}; give at least that "
            f"many, and at most the {len(WELL_NAMES)} of RxRx1"
        )
    shape = SHAPES[name][1]
    plates = min(int(args.gigabytes * 1e9 / (args.wells * math.prod(shape))), len(PLATES))
    n, wanted = plates * -(-args.wells // args.batch_size), max(args.workers, 1) + args.steps
    if n < wanted:
        raise InputError(
            f"{plates} plates of {name} make {n} batches and a round takes {wanted}, one for each worker and "
            "then --steps; raise --gigabytes, or lower --steps or --workers"
        )
    need, free = plates * args.wells * math.prod(shape), shutil.disk_usage(folder).free
    said = f"{plates * args.wells:,} random images of {shape} need {need / 1e9:.1f} GB of disk"
    if need > free:
        raise InputError(
            f"{said} and {folder} has {free / 1e9:.1f} GB free; lower --gigabytes, or give another --folder"
        )
    check_shared(shape, args)
    sys.stderr.write(f"{said}, and as much memory to stay in\n")
    return plates


def check_shared(shape: tuple[int, ...], args: argparse.Namespace) -> None:
    """Refuse workers whose batches do not fit into shared memory, which would kill one in the middle.

    Raises:
        InputError: with what they need.
    """
    side = crop_side("paper", *shape[1:]) or shape[1]
    # Torch asks each worker for two batches ahead.
    need = 2 * args.workers * args.batch_size * shape[0] * side**2
    if SHARED.is_dir() and need > (free := shutil.disk_usage(SHARED).free):
        raise InputError(
            f"batches of {args.workers} workers need {need / 1e9:.1f} GB of shared memory and {SHARED} has "
            f"{free / 1e9:.1f} GB free; enlarge it, or lower --workers or --batch_size"
        )


def write_random(root: Path, name: str, *, plates: int, wells: int, cores: int) -> None:
    """Write a data set's tables and pack below a root_dir; there are no image files.

    Args:
        root: an empty folder.
        name: of SHAPES.
        plates: how many, each a bio-batch.
        wells: of a plate, each one image.
        cores: processes that write.

    Raises:
        InputError: if the disk does not take it.
    """
    sub, shape = SHAPES[name]
    (root / sub).mkdir()
    table(plates, wells).to_csv(root / sub / "metadata.csv", index=False)
    (root / sub / "RELEASE_v1.0.txt").write_text("Random bytes, not RxRx1.\n", encoding="utf-8")
    dataset = from_files(name, root)
    dataset.get_input = partial(random_image, shape)
    folder, todo = pack_folder(dataset.data_dir), plates_of(dataset)
    folder.mkdir()
    write_plates(dataset, Plan(folder, Form(shape, torch.uint8), 0), todo, cores)
    tables = {plate.name: read_plate_table(folder, plate.name) for plate in todo}
    write_index(dataset, folder, tables, table_digests(dataset))


def table(plates: int, wells: int) -> pd.DataFrame:
    """A metadata.csv: one row an image, classes in turn."""
    rows = itertools.product(PLATES[:plates], WELL_NAMES[:wells])
    return pd.DataFrame(
        [(*plate, well, 1, "train", k % N_CLASSES) for k, (plate, well) in enumerate(rows)],
        columns=["cell_type", "experiment", "plate", "well", "site", "dataset", "sirna_id"],
    )


def random_image(shape: tuple[int, ...], row: int) -> Tensor:
    """Random bytes for a row, (C, H, W) uint8, alike whichever process makes them."""
    made = np.random.default_rng(row).integers(256, size=shape, dtype=np.uint8)
    return torch.from_numpy(made)


class Start(BatchSampler):
    """The first n batches of each epoch of a sampler: what a round draws, so that workers rest after it."""

    def __init__(self, sampler: BatchSampler, n: int):
        super().__init__(n, 0, sampler.seed)
        self._sampler = sampler

    def batches(self, rng: np.random.Generator) -> Iterator[BatchRows]:
        """The batches of a round."""
        return itertools.islice(self._sampler.batches(rng), len(self))


def make_loader(config: RunConfig, device: torch.device, steps: int) -> tuple[Loader, DataInfo, int]:
    """The loader of rounds over plates, what methods may know of its data, and the batches of the pipeline.

    A round is one batch for each worker, by which all of them are at work, and then the steps.
    """
    d = config.data
    dataset = load_dataset(d.dataset, d.root_dir, split_scheme=d.split_scheme, data_format=d.data_format)
    grouper, subset = make_grouper(dataset, d.groupby_fields), split_subset(dataset, "train")
    reading = reading_kwargs(d, device)
    ahead = max(reading["num_workers"], 1)
    groups = grouper.metadata_to_group(subset.metadata_array).numpy()
    whole = PlateSampler(groups, d.batch_size, config.train.seed)
    side = crop_side(d.transform, *SHAPES[d.dataset][1][1:])
    loader = Loader(subset, grouper, Start(whole, ahead + steps), side=side, **reading)
    return loader, data_info(dataset, subset, grouper), ahead
