"""`abra-wilds components`: what --tta eb_bn needs to know of a saved model, measured and kept beside it."""

from __future__ import annotations

import argparse

from abra_wilds.analysis.saved import open_saved
from abra_wilds.commands.predict import add_flags, given_flags
from abra_wilds.config.fields import path
from abra_wilds.config.run import PREDICTION_FLAGS
from abra_wilds.engine.evaluation.components import components_path, saved_components

# The other flags of --tta say how components are used, not what they are.
FLAGS = [name for name in PREDICTION_FLAGS if not name.startswith("tta") or name == "tta_group"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT", help="..._model.pth of a run")
    parser.add_argument("--overwrite", action="store_true", help="measure again what is kept already")
    add_flags(parser, FLAGS)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    saved = open_saved(args.checkpoint, {**given_flags(args), "tta": "eb_bn"}, splits=["train"])
    kept = components_path(args.checkpoint, saved.config.eval.tta_group)
    found = saved_components(args.checkpoint, saved.config, saved.setup, saved.method, args.overwrite)
    print(f"{found.line()}\n{kept}")
    return 0
