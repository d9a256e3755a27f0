"""`abra-wilds embed`: what a saved model's classifier reads, as profiles of sites and wells."""

from __future__ import annotations

import argparse
from pathlib import Path

from abra_wilds.analysis.embed import LEVELS, embed_saved
from abra_wilds.analysis.postprocess import POSTPROCESS
from abra_wilds.commands.predict import add_flags, given_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="DATASET_seed:S_epoch:E_model.pth of a run")
    parser.add_argument(
        "--split", nargs="+", metavar="NAME", help="splits to embed, train among them; unset: all but train"
    )
    parser.add_argument("--level", nargs="+", choices=LEVELS, default=LEVELS, help="unset: both")
    parser.add_argument(
        "--postprocess",
        choices=tuple(POSTPROCESS),
        default="none",
        help="align experiments on control wells: each feature, or principal components of controls",
    )
    parser.add_argument(
        "--metrics", action="store_true", help="measure how experiments mix and siRNAs stay apart, by well"
    )
    parser.add_argument(
        "--out", metavar="FOLDER", help="where files go; unset: embed_EPOCH_TTA in the run's folder"
    )
    add_flags(parser)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    embed_saved(
        Path(args.checkpoint),
        args.split,
        given_flags(args),
        levels=args.level,
        postprocess=args.postprocess,
        metrics=args.metrics,
        out=None if args.out is None else Path(args.out),
    )
    return 0
