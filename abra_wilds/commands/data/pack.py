"""`abra-wilds pack`: write a data set's images as one array for each plate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from typing import Any

from abra_wilds.config.fields import path
from abra_wilds.config.run import COMMON
from abra_wilds.config.screen import DATASET as SCREEN
from abra_wilds.data.datasets.catalogue import DATASET_NAMES
from abra_wilds.data.reading.pack import found_name, from_files, pack
from abra_wilds.pools import usable_cores
from abra_wilds.recipes.flags import add_flag


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
    parser.add_argument(
        "root",
        type=path,
        metavar="ROOT",
        help="folder of the data set's, or a screen's table or folder",
    )
    parser.add_argument(
        "--dataset", choices=(*DATASET_NAMES, SCREEN), help="which data set, where ROOT does not say it"
    )
    parser.add_argument(
        "--workers", type=int, default=cores, metavar="W", help=f"processes (default {cores}, one a core)"
    )
    add_screen_flags(parser)


def add_screen_flags(
    parser: argparse.ArgumentParser, *, path_too: bool = False, without: Collection[str] = ()
) -> None:
    """Declare the flags that say what a screen's columns and channels are; those given go before its yaml.

    Args:
        parser: gets them.
        path_too: whether --screen is one of them.
        without: those that mean nothing to the command.
    """
    group = parser.add_argument_group("of a screen")
    for name, setting in COMMON.of("screen").items():
        if (path_too or name != "screen") and name not in without:
            add_flag(group, name, setting.flag, setting.default)


def screen_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Those of them that are given."""
    names = (name for name in COMMON.of("screen") if name != "screen")
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def named(args: argparse.Namespace) -> str:
    """The data set that a command's arguments name.

    Raises:
        InputError: if there is none.
    """
    return str(args.dataset or (SCREEN if screen_flags(args) else found_name(args.root)))


def run(args: argparse.Namespace) -> int:
    """Carry out `abra-wilds pack`; InputError is left to the caller, who prints it."""
    dataset = from_files(named(args), args.root, screen_flags(args))
    folder = pack(dataset, size=args.size, workers=args.workers)
    sys.stdout.write(f"packed {len(dataset):,} images into {folder}\n")
    return 0
