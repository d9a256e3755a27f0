"""`abra-wilds qc`: which sites, wells and plates of a screen not to trust, and why."""

from __future__ import annotations

import argparse
import sys

from abra_wilds.analysis.qc.run import check_quality
from abra_wilds.board.extra import check_board_packages
from abra_wilds.commands.data.pack import add_screen_flags, screen_flags
from abra_wilds.config.fields import path
from abra_wilds.config.run import COMMON
from abra_wilds.data.datasets.catalogue import is_simulated, load_dataset
from abra_wilds.data.screens.screen import Screen
from abra_wilds.pools import check_workers, usable_cores
from abra_wilds.recipes.flags import add_flag
from abra_wilds.results.files import write_text

DATA_FLAGS = ("dataset", "root_dir", "version", "split_scheme", "data_format", "packed_size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    for name in DATA_FLAGS:
        setting = COMMON.settings[name]
        add_flag(parser, name, setting.flag, setting.default)
    add_screen_flags(parser, path_too=True)
    parser.add_argument(
        "--out",
        type=path,
        required=True,
        metavar="FOLDER",
        help="where tables and page go; a second start goes on",
    )
    parser.add_argument(
        "--nuclear", metavar="NAME", help="channel that shows nuclei; unset: by its name, else the first"
    )
    cores = usable_cores()
    parser.add_argument(
        "--workers", type=int, default=cores, metavar="W", help=f"processes (default {cores}, one a core)"
    )


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    check_board_packages("pages")
    from abra_wilds.board.report.quality import quality_page

    check_workers(args.workers)
    values = {name: getattr(args, name, COMMON.settings[name].default) for name in DATA_FLAGS}
    d = COMMON.section("data", values)
    how = {"data_format": d.data_format, "packed_size": d.packed_size}
    if hasattr(args, "screen"):
        dataset = Screen.open(args.screen, **screen_flags(args)).dataset(labelled=False, **how)
    else:
        dataset = load_dataset(d.dataset, d.root_dir, d.version, d.split_scheme, **how)
    quality = check_quality(dataset, args.out, workers=args.workers, nuclear=args.nuclear)
    page, summary = quality_page(quality, dataset.dataset_name, simulated=is_simulated(dataset))
    write_text(args.out / "qc.html", page)
    sys.stdout.write(f"{summary}\n{args.out / 'qc.csv'}, qc_plates.csv and qc.html have all of it\n")
    return 0
