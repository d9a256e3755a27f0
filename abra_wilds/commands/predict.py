"""`abra-wilds predict`: a saved model's predictions, with any test-time adaptation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from abra_wilds.board.extra import check_board_packages
from abra_wilds.board.sweep.slurm import submit_shared
from abra_wilds.commands.data.pack import add_screen_flags, screen_flags
from abra_wilds.config.fields import expanded, path
from abra_wilds.config.run import COMMON, PREDICTION_FLAGS
from abra_wilds.config.screen import OF_TRAINING
from abra_wilds.dist import launched, started
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.engine.models.model import Model, load_model
from abra_wilds.errors import InputError
from abra_wilds.recipes.flags import add_flag
from abra_wilds.results.files import write_text

OF_SHARING = ("csv", "slurm", "jobs")
PAGE = "answers.html"


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
    add_qc(parser)
    add_sharing(parser)
    add_flags(parser)
    add_screen_flags(parser, path_too=True, without=OF_TRAINING)


def add_qc(parser: argparse.ArgumentParser) -> None:
    """The flags of quality control, for predict and embed."""
    parser.add_argument(
        "--qc",
        type=path,
        metavar="FILE",
        help="with --screen: table of abra-wilds qc; flagged sites do not count in wells that have others, "
        "nor in what is adapted to",
    )


def add_sharing(parser: argparse.ArgumentParser) -> None:
    """How a large screen is worked through, for predict and embed."""
    group = parser.add_argument_group("a screen of many plates")
    group.add_argument(
        "--by_plate",
        action="store_true",
        help="write a file a plate; the same command goes on, and several at once share the plates",
    )
    group.add_argument("--csv", action="store_true", help="with --by_plate: csv of a large screen too")
    group.add_argument(
        "--slurm",
        nargs="*",
        metavar="KEY=VALUE",
        help="with --by_plate: submit it, by sbatch's names: time=MINUTES partition=... cpus_per_task=...",
    )
    group.add_argument(
        "--jobs", type=int, metavar="N", help="jobs of --slurm that share the plates; unset: 1"
    )


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
    of_screen = [name for name in COMMON.of("screen") if name not in OF_TRAINING]
    for name in ("unlabelled", "h5ad", "qc", "by_plate", *OF_SHARING, *of_screen):
        if given.get(name) not in (None, False):
            raise InputError(f"--{name} would have no effect without --screen; leave it out or add that")
    return Path(expanded(args.checkpoint, "MODEL"))


def by_plate(args: argparse.Namespace, work: Callable[[], None]) -> int:
    """Do a command with --screen, here or by jobs of Slurm; returns its exit code.

    Args:
        args: of the command.
        work: what it does in this process.

    Raises:
        InputError: for flags that need --by_plate or --out, or several processes without it.
    """
    for name in OF_SHARING:
        if getattr(args, name) not in (None, False) and not (args.slurm if name == "jobs" else args.by_plate):
            needed = "slurm" if name == "jobs" else "by_plate"
            raise InputError(f"--{name} would have no effect without --{needed}; leave it out or add that")
    if launched() > 1 and not args.by_plate:
        raise InputError(
            f"{launched()} processes would each predict the whole screen; add --by_plate to share it"
        )
    if args.slurm is None:
        with started():
            work()
        return 0
    if args.out is None:
        raise InputError("--slurm needs a folder that all jobs fill; give it by --out")
    gpus = 0 if vars(args).get("device") == ["cpu"] else 1
    jobs = 1 if args.jobs is None else args.jobs
    return submit_shared(args.command[1:], args.slurm, args.out, jobs, gpus)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    if "screen" not in args:
        predict_saved(checkpoint_of(args), args.split, args.out, given_flags(args))
        return 0
    return by_plate(args, lambda: predict(args))


def predict(args: argparse.Namespace) -> None:
    """Predict a screen."""
    from abra_wilds.analysis.answers.plates import predict_by_plate
    from abra_wilds.analysis.answers.predict import predict_screen

    model, flags = for_screen(args, {"split": args.split})
    out = args.out or Path(f"answers_{model.config.eval.name}")
    how = {"scored": not args.unlabelled, "qc": args.qc}
    if args.by_plate:
        if not predict_by_plate(model, args.screen, flags, out, **how, csv=args.csv):
            return
    else:
        predict_screen(model, args.screen, flags, out, **how)
    write_page(out)


def write_page(out: Path) -> None:
    """Write answers.html about a folder of answers, or say in a line why there is none."""
    try:
        check_board_packages("pages")
    except InputError as lacking:
        sys.stdout.write(f"{PAGE} is not made: {lacking}\n")
        return
    from abra_wilds.board.report.answers import answers_page

    page, summary = answers_page(out)
    write_text(out / PAGE, page)
    sys.stdout.write(f"{summary}\n{out / PAGE} has all of it\n")
