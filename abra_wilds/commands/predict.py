"""`abra-wilds predict`: a saved model's predictions, with any test-time adaptation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from abra_wilds.config.fields import path
from abra_wilds.config.run import COMMON, PREDICTION_FLAGS
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.recipes.flags import add_flag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT", help="..._model.pth of a run")
    parser.add_argument("--split", nargs="+", metavar="NAME", help="splits to predict; unset: all but train")
    parser.add_argument(
        "--out",
        type=path,
        metavar="FOLDER",
        help="where everything goes; unset: tta_NAME in the run",
    )
    add_flags(parser)


def add_flags(parser: argparse.ArgumentParser, names: Sequence[str] = PREDICTION_FLAGS) -> None:
    """Flags of the main command that a saved model may be used with, or some of them."""
    for name in names:
        add_flag(parser, name, COMMON.settings[name].flag, "as in the run")


def given_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Those of `add_flags` that were given."""
    given = {name: value for name, value in vars(args).items() if name in PREDICTION_FLAGS}
    if "loader_kwargs" in given:
        given["loader_kwargs"] = dict(given["loader_kwargs"])
    return given


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    predict_saved(args.checkpoint, args.split, args.out, given_flags(args))
    return 0
