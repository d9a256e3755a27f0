"""The scores of a submission to the WILDS leaderboard again, from its files alone, by WILDS' own evaluator.

    python leaderboard/verify.py ABRA.tar.gz --root_dir data

Of the data set metadata.csv and RELEASE_v1.0.txt are needed, and no image. Exit code 1 when something is
wrong: then one line each says which file, what was found and what was expected.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from abra_wilds.board.bundle.verify import verify
from abra_wilds.config.fields import path
from abra_wilds.terminal import alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "archive", type=path, metavar="ARCHIVE", help=".tar.gz, .zip, or an unpacked one's folder"
    )
    parser.add_argument(
        "--root_dir", type=path, required=True, help="folder that holds rxrx1_v1.0 with its metadata.csv"
    )
    parser.add_argument("--json", type=path, help="also write the numbers to this file")


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    return verify(args.archive, args.root_dir, args.json)


def main(argv: Sequence[str] | None = None) -> int:
    """`leaderboard/verify.py`: the same as a script."""
    return alone(__doc__, add_arguments, run, argv)
