"""`abra-wilds validate`: read every file of a data set and of its packs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from abra_wilds.commands.data.pack import add_data_arguments, named, screen_flags
from abra_wilds.data.datasets.counts import data_lines, split_rows
from abra_wilds.data.datasets.validate import (
    bad_plates,
    blank_line,
    check_arrays,
    check_files,
    leaks,
    no_files,
    opened_packs,
    report_problems,
    size_of,
)
from abra_wilds.data.reading.pack import from_files
from abra_wilds.data.reading.packed import pack_command
from abra_wilds.errors import InputError
from abra_wilds.pools import check_workers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `abra-wilds validate`."""
    add_data_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out `abra-wilds validate`; 1 if anything is wrong."""
    check_workers(args.workers)
    name = named(args)
    try:
        dataset = from_files(name, args.root, screen_flags(args))
    except InputError as fault:
        return report_problems([str(fault)])
    folder = Path(dataset.data_dir)
    packs, problems = opened_packs(dataset, args.root)
    problems += bad_plates(dataset)
    lines = data_lines(dataset, split_rows(dataset))
    sys.stdout.write("\n".join([f"{name} in {folder}: {len(dataset):,} images", *lines, ""]))
    full = next((pack for pack in packs if pack.folder.name == "packed"), None)
    if full is not None and no_files(dataset):
        sys.stdout.write("no image file is left beside the pack\n")
    else:
        found = check_files(dataset, full, args.workers, pack_command(dataset, args.root))
        problems += [*found.problems, *leaks(dataset, found)]
        sys.stdout.write(f"{blank_line(found)}\n")
    for pack in packs:
        size = size_of(pack.folder) or 0
        problems += check_arrays(pack, args.workers, pack_command(dataset, args.root, size))
        sys.stdout.write(f"{pack.folder.name}: {len(pack):,} images of {pack.shape} read\n")
    return report_problems(problems)
