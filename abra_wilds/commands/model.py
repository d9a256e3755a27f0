"""`abra-wilds model`: a saved model as a folder that needs no data, as training leaves it."""

from __future__ import annotations

import argparse
import sys

from abra_wilds.analysis.saved import open_saved
from abra_wilds.commands.predict import add_flags, given_flags
from abra_wilds.config.fields import path
from abra_wilds.engine.models.leave import measured
from abra_wilds.engine.models.model import Model, load_model
from abra_wilds.errors import InputError

FLAGS = ("tta", "tta_group", "tta_controls", "root_dir", "data_format", "device", "loader_kwargs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT", help="..._model.pth of a run")
    parser.add_argument("out", type=path, metavar="FOLDER", help="where the model goes; must not exist")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="read training images, for mean features of each class and, with --tta eb_bn, components of "
        "batch norms; without it, those go along that are kept already",
    )
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="also upload it to this repository")
    add_flags(parser, FLAGS)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    flags = given_flags(args)
    if args.measure:
        saved = open_saved(args.checkpoint, flags, splits=["train"])
        model = Model(measured(saved.config, saved.setup, saved.method, args.checkpoint), "cpu")
    elif flags:
        raise InputError(f"--{next(iter(flags))} would have no effect without --measure; leave it out")
    else:
        model = load_model(args.checkpoint, "cpu")
    sys.stdout.write(f"{model.save(args.out)}\n")
    if args.push_to_hub:
        sys.stdout.write(f"{model.push_to_hub(args.push_to_hub)}\n")
    return 0
