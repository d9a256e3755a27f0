"""One page about a folder of runs, which opens from disk: tables, curves, plate maps, confusions, costs.

    python leaderboard/report.py logs --out report.html --root_dir data

RUNS is a folder of run folders, or one of them. Tables and curves come from records and logs; accuracies by
experiment, plate and well, and confusions also need --root_dir: the folder with metadata.csv, or a screen's
table or folder, and no image. What figures.py wrote is taken in. Needs no torch, but to read a screen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from abra_wilds.board.extra import check_board_packages
from abra_wilds.board.select import add_runs, chosen_runs
from abra_wilds.config.fields import path
from abra_wilds.results.files import make_out, write_text
from abra_wilds.terminal import alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add_runs(parser)
    parser.add_argument(
        "--out", type=path, metavar="FILE", required=True, help="the page, such as report.html"
    )
    parser.add_argument(
        "--root_dir",
        type=path,
        metavar="ROOT",
        help="folder of the data, for its metadata.csv; of a screen its table or folder",
    )
    parser.add_argument(
        "--figures", type=path, metavar="FOLDER", help="of figures.py; unset: RUNS/../figures"
    )
    parser.add_argument(
        "--split_settings", action="store_true", help="show several settings of a method as rows of their own"
    )


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code.

    Raises:
        InputError: if there is no run, or no folder for the page.
    """
    check_board_packages("reports")
    from abra_wilds.board.report.page import figures_folder, report

    figures = figures_folder(args.figures, args.runs)
    page = report(chosen_runs(args), args.root_dir, figures, args.split_settings)
    make_out(args.out.parent)
    write_text(args.out, page)
    print(args.out)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`leaderboard/report.py`: the same as a script."""
    return alone(__doc__, add_arguments, run, argv)
