"""From the run folders of one method to an archive for the WILDS leaderboard.

    python leaderboard/bundle.py logs/ABRA --out ABRA.tar.gz --contact me@example.org

RUNS holds one run folder for each seed; 0, 1 and 2 are taken, of each the predictions by the epoch that is
best on val. Whether the row is standard is decided from the runs' records. Nothing here needs torch or data.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from abra_wilds.board.bundle.build import bundle
from abra_wilds.terminal import alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder of run folders, one for each seed")
    parser.add_argument("--out", type=Path, required=True, help=".tar.gz or .zip; replaced if it exists")
    parser.add_argument("--tta", metavar="NAME", help="take tta_NAME of 'abra-wilds predict' in each run")
    parser.add_argument("--non_standard", action="store_true", help="bundle a row that is not standard")
    parser.add_argument("--contact", help="whom to write to, for the README")
    parser.add_argument("--paper_url", help="of the method's paper, for the README")
    parser.add_argument("--code_url", help="of this code, for the README")


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    print(bundle(args.runs, args.out, args).split("\n## ")[0])
    print(f"\nWrote {args.out}; check it with 'abra-wilds verify {quote(str(args.out))} --root_dir ROOT'")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`leaderboard/bundle.py`: the same as a script."""
    return alone(__doc__, add_arguments, run, argv)
