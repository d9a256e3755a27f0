"""`abra-wilds pack`: write a data set's images as one array for each plate."""

from __future__ import annotations

import argparse
import sys

from abra_wilds.config.fields import path
from abra_wilds.data.datasets.catalogue import DATASET_NAMES
from abra_wilds.data.reading.pack import found_name, from_files, pack
from abra_wilds.pools import usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `abra-wilds pack`."""
    add_data_arguments(parser)
    parser.add_argument(
        "--size",
        type=int,
        default=0,
        metavar="N",
        help="shrink to N pixels a side; unset: images as they are",
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which data set, and by how many processes."""
    cores = usable_cores()
    parser.add_argument("root", type=path, metavar="ROOT", help="folder that holds the data set's")
    parser.add_argument("--dataset", choices=DATASET_NAMES, help="which data set, where ROOT holds both")
    parser.add_argument(
        "--workers", type=int, default=cores, metavar="W", help=f"processes (default {cores}, one a core)"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out `abra-wilds pack`; InputError is left to the caller, who prints it."""
    dataset = from_files(args.dataset or found_name(args.root), args.root)
    folder = pack(dataset, size=args.size, workers=args.workers)
    sys.stdout.write(f"packed {len(dataset):,} images into {folder}\n")
    return 0
