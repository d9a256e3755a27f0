"""Tables 2-6 of the ABRA paper from run folders, with the published numbers beside ours.

    python leaderboard/tables.py logs --out tables --table 3 4

RUNS is a folder of run folders. Their results.jsonl are read, and those of the adaptations inside them
(tta_...). Rows are the paper's, in its order; those without a run are shown as missing, and rows of ours that
the paper lacks come last. A table is written as table_N.md, .tex, .csv and .html, and printed in a narrow
form: the rows that have runs, in the column that is tested. Without --out and away from a terminal it is
printed as Markdown. Needs neither torch nor data.

What the paper's printed means and standard deviations tell of its own p-values is said in significance.py and
under each table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from abra_wilds.board.select import add_runs, check_adaptation, chosen_runs
from abra_wilds.board.tables.build import build_tables, write_tables
from abra_wilds.board.tables.formats import markdown, narrow
from abra_wilds.board.tables.rows import PLATE, TABLE_NUMBERS
from abra_wilds.config.fields import path
from abra_wilds.terminal import alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add_runs(parser)
    parser.add_argument("--out", type=path, metavar="FOLDER", help="where table_N.md and so on go")
    parser.add_argument(
        "--table", type=int, nargs="+", choices=TABLE_NUMBERS, default=TABLE_NUMBERS, help="which; unset: all"
    )
    parser.add_argument(
        "--backbone", nargs="+", default=(), metavar="NAME", help="of the runs; unset: the table's own"
    )
    parser.add_argument(
        "--tta", default=PLATE, metavar="NAME", help="adaptation of ours that stands for the paper's"
    )
    parser.add_argument(
        "--split_settings", action="store_true", help="show several settings of a method as rows of their own"
    )


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    runs = chosen_runs(args)
    if args.tta != PLATE:
        check_adaptation(args.tta, runs)
    choices = {"backbones": args.backbone, "tta": args.tta, "split_settings": args.split_settings}
    tables = build_tables(runs, dict.fromkeys(args.table), **choices)
    if args.out is not None:
        write_tables(tables, args.out)
    short = args.out is not None or sys.stdout.isatty()
    print("\n".join(map(narrow if short else markdown, tables)))
    if args.out is not None:
        print(f"All columns, notes and published rows: {args.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`leaderboard/tables.py`: the same as a script."""
    return alone(__doc__, add_arguments, run, argv)
