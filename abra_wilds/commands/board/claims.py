"""The paper's claims, tested on records: `docs/claims.md`.

    abra-wilds claims --records leaderboard/records --out docs/claims.md

The claims, rows and records are those of abra_wilds/board/claims/claims.yaml, or of --spec. Needs neither
torch nor data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from abra_wilds.board.claims.evidence import SPEC, read_claims, read_least
from abra_wilds.board.claims.page import page
from abra_wilds.config.fields import path
from abra_wilds.results.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "--records",
        type=path,
        default=Path("leaderboard/records"),
        metavar="FOLDER",
        help="where the records are that the claims name",
    )
    parser.add_argument("--spec", type=path, default=SPEC, metavar="FILE", help="YAML like claims.yaml")
    parser.add_argument("--out", type=path, metavar="FILE", help="the page; unset: print it")


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    settings, claims = read_claims(args.records, args.spec)
    text = page(settings, claims, read_least(args.spec))
    if args.out is None:
        print(text)
    else:
        write_text(args.out, text)
    return 0
