"""`abra-wilds embed`: what a saved model's classifier reads, as profiles of sites and wells."""

from __future__ import annotations

import argparse
from pathlib import Path

from abra_wilds.analysis.embed import LEVELS, embed_saved
from abra_wilds.analysis.metrics.table import SETS
from abra_wilds.analysis.postprocess import POSTPROCESS
from abra_wilds.commands.data.pack import add_screen_flags
from abra_wilds.commands.predict import (
    add_flags,
    add_model,
    add_qc,
    add_sharing,
    by_plate,
    checkpoint_of,
    for_screen,
    given_flags,
)
from abra_wilds.config.fields import path
from abra_wilds.config.screen import OF_TRAINING
from abra_wilds.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add_model(parser)
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
        "--metrics",
        nargs="?",
        const=SETS[0],
        choices=SETS,
        help="measure how experiments mix and treatments are found again, beside what no training gives; "
        "all: silhouettes and neighbours too",
    )
    parser.add_argument(
        "--annotation", metavar="COLUMN", help="of the metadata: what treatments share, such as their gene"
    )
    parser.add_argument(
        "--pairs", type=path, metavar="CSV", help="pairs of annotations (or class ids) known to be related"
    )
    parser.add_argument(
        "--h5ad", action="store_true", help="with --screen: also write .h5ad, as scanpy reads it"
    )
    parser.add_argument(
        "--out",
        type=path,
        metavar="FOLDER",
        help="where files go; unset: embed_EPOCH_TTA in the run, with --screen embed_TTA",
    )
    add_qc(parser)
    add_sharing(parser)
    add_flags(parser)
    add_screen_flags(parser, path_too=True, without=OF_TRAINING)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    if "screen" in args:
        return by_plate(args, lambda: embed(args))
    embed_saved(
        checkpoint_of(args),
        args.split,
        given_flags(args),
        levels=args.level,
        postprocess=args.postprocess,
        metrics=args.metrics,
        annotation=args.annotation,
        pairs=args.pairs,
        out=args.out,
    )
    return 0


def embed(args: argparse.Namespace) -> None:
    """Embed a screen.

    Raises:
        InputError: for what needs the whole screen, with --by_plate.
    """
    from abra_wilds.analysis.answers.embed import embed_screen
    from abra_wilds.analysis.answers.plates import embed_by_plate

    for name, value in {"postprocess": args.postprocess != "none", "h5ad": args.h5ad}.items():
        if value and args.by_plate:
            raise InputError(f"--{name} needs the whole screen at once; leave it or --by_plate out")
    model, flags = for_screen(args, {"split": args.split, "metrics": args.metrics})
    out = args.out or Path(f"embed_{model.config.eval.name}")
    if args.by_plate:
        embed_by_plate(model, args.screen, flags, out, levels=args.level, qc=args.qc, csv=args.csv)
    else:
        how = {"levels": args.level, "qc": args.qc, "postprocess": args.postprocess, "h5ad": args.h5ad}
        embed_screen(model, args.screen, flags, out, **how)
