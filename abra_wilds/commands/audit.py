"""`abra-wilds audit`: whether a model, or its screen, tells classes by something that is not the cells."""

from __future__ import annotations

import argparse

from abra_wilds.analysis.audit.audit import audit_saved
from abra_wilds.commands.predict import add_flags, given_flags
from abra_wilds.config.fields import path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT", help="..._model.pth of a run")
    parser.add_argument(
        "--split",
        default="test",
        metavar="NAME",
        help="of bio-batches new to the model; unset: test",
    )
    parser.add_argument(
        "--density_channel", type=int, default=1, metavar="N", help="whose foreground is the density, from 1"
    )
    parser.add_argument(
        "--out", type=path, metavar="FOLDER", help="where the file goes; unset: audit_EPOCH_TTA in the run"
    )
    add_flags(parser)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    flags = given_flags(args)
    audit_saved(args.checkpoint, args.split, flags, channel=args.density_channel - 1, out=args.out)
    return 0
