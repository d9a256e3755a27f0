"""`abra-wilds predict`: a saved model's predictions, with any test-time adaptation."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abra_wilds.commands.data.pack import add_screen_flags, screen_flags
from abra_wilds.config.fields import expanded, path
from abra_wilds.config.run import COMMON, PREDICTION_FLAGS
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.engine.models.model import Model, load_model
from abra_wilds.errors import InputError
from abra_wilds.recipes.flags import add_flag

# Which images train is nothing to a screen that is predicted as a whole.
OF_TRAINING = ("split", "split_column", "keep_together", "least_per_class", "least_per_bio_batch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add_model(parser)
    parser.add_argument("--split", nargs="+", metavar="NAME", help="splits to predict; unset: all but train")
    parser.add_argument(
        "--out",
        type=path,
        metavar="FOLDER",
        help="where everything goes; unset: tta_NAME in the run, with --screen answers_TTA",
    )
    parser.add_argument(
        "--unlabelled", action="store_true", help="with --screen: leave its labels, and so scores, out"
    )
    parser.add_argument(
        "--qc",
        type=path,
        metavar="FILE",
        help="with --screen: table of abra-wilds qc; flagged sites do not count in wells that have others",
    )
    add_flags(parser)
    add_screen_flags(parser, path_too=True, without=OF_TRAINING)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which model, for predict and embed."""
    parser.add_argument(
        "checkpoint",
        metavar="MODEL",
        help="..._model.pth of a run; with --screen also a model's folder or OWNER/NAME on the Hub, and no "
        "data of training are needed",
    )


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


def for_screen(args: argparse.Namespace, idle: Mapping[str, Any]) -> tuple[Model, dict[str, Any]]:
    """The model for a screen, with the flags of its use, and those of the screen.

    Args:
        args: of the command.
        idle: name -> value of arguments that have no effect with a screen.

    Raises:
        InputError: for a flag that has no effect, or a model that cannot be opened.
    """
    flags = given_flags(args)
    for name, value in {"root_dir": flags.get("root_dir"), **idle}.items():
        if value:
            raise InputError(f"--{name} would have no effect with --screen; leave it out")
    (device,) = flags.pop("device", ["auto"])
    model = load_model(args.checkpoint, device, flags=flags)
    flags = {name: value for name, value in screen_flags(args).items() if name not in OF_TRAINING}
    return model, flags


def checkpoint_of(args: argparse.Namespace) -> Path:
    """The checkpoint, where no screen is given.

    Raises:
        InputError: for a flag that needs a screen.
    """
    given = vars(args)
    for name in ("unlabelled", "h5ad", "qc", *(n for n in COMMON.of("screen") if n not in OF_TRAINING)):
        if given.get(name) not in (None, False):
            raise InputError(f"--{name} would have no effect without --screen; leave it out or add that")
    return Path(expanded(args.checkpoint, "MODEL"))


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    if "screen" not in args:
        predict_saved(checkpoint_of(args), args.split, args.out, given_flags(args))
        return 0
    from abra_wilds.analysis.answers.predict import predict_screen

    model, flags = for_screen(args, {"split": args.split})
    out = args.out or Path(f"answers_{model.config.eval.name}")
    predict_screen(model, args.screen, flags, out, scored=not args.unlabelled, qc=args.qc)
    return 0
