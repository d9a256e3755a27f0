"""`abra-wilds export`: a model as one file for ONNX Runtime or torch, adaptation included."""

from __future__ import annotations

import argparse
import sys

from abra_wilds.config.data import LEAST_SIDE
from abra_wilds.config.fields import path
from abra_wilds.engine.models.graph import FORMATS, GRAPH_TTA, export_model
from abra_wilds.engine.models.model import load_model
from abra_wilds.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="folder of a model or run, checkpoint, or OWNER/NAME")
    parser.add_argument("out", type=path, metavar="OUT", help="the file: NAME.onnx, or NAME.pt2 of torch")
    parser.add_argument("--format", choices=tuple(FORMATS), default="onnx", help="unset: onnx")
    parser.add_argument(
        "--tta",
        metavar="NAME",
        help=f"adaptation inside the graph [{', '.join(GRAPH_TTA)}]; unset: that of the model's run",
    )
    parser.add_argument(
        "--image_size",
        type=int,
        nargs="+",
        metavar="SIDE",
        help="height and width of the images that will come, or one for both; unset: those of training",
    )


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    sides = args.image_size or ()
    if len(sides) > 2 or min(sides, default=LEAST_SIDE) < LEAST_SIDE:
        raise InputError(f"--image_size must be one side or two of {LEAST_SIDE} or more; got {sides}")
    size = (sides[0], sides[-1]) if sides else None
    made = export_model(load_model(args.model, "cpu"), args.out, args.format, args.tta, size)
    sys.stdout.write(f"{made}\n")
    return 0
