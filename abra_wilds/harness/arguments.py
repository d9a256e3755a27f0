"""One command line for two parsers: ours decides every value, the checkout's gets what it knows."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from abra_wilds.config.run import RunConfig
from abra_wilds.dist import launched
from abra_wilds.errors import InputError
from abra_wilds.methods import get_method
from abra_wilds.methods.base import Method
from abra_wilds.recipes.flags import WITHOUT_MEANING, flags_by_name, read_flags
from abra_wilds.recipes.resolve import resolve
from abra_wilds.terminal import Parser

# Flags of WILDS without a meaning in our own command, that its scripts answer for our methods too.
ANSWERED = (
    "download",
    "algo_log_metric",
    "use_wandb",
    "wandb_api_key_path",
    "wandb_kwargs",
)
LOADERS = ("standard", "group")  # its own
# Flags of ours that the checkout's loop has no place for.
NO_PLACE = {
    "config": "write the settings as flags",
    "plate_remainder": "its loaders deal no bio-batch out in parts",
    "also_tta": "its own loop keeps one best epoch",
    "tracker": "its curves are written by --use_wandb",
    **dict.fromkeys(("data_format", "packed_size"), "its loaders read image files"),
    "qc": "its loaders read all images",
    "shuffle_labels": "its loaders read labels as they are",
    **dict.fromkeys(("amp", "channels_last", "compile"), "its own loop runs the step in full precision"),
    "dry_run": "`python examples/run_expt.py --dry_run` of abra_wilds shows a run",
}
NO_FLAGS = ("algorithm", "loop", "world")  # of a run's values
# The checkout's parser has a default of its own for these, and its data set table is not asked.
ITS_OWN = ("device", "progress_bar", "eval_splits", "version")


@dataclass(frozen=True)
class Request:
    """What a command line asks of a checkout.

    Attributes:
        argv: for the checkout's own parser.
        run: every value of a run of one of our methods; None for an algorithm of the checkout's own.
        defaults: what the checkout's table of data sets must say for this run.
    """

    argv: list[str]
    run: RunConfig | None
    defaults: Mapping[str, Any]


def read_request(argv: Sequence[str], names: Mapping[str, str], flags: Collection[str]) -> Request:
    """Split a command line.

    Args:
        argv: after the checkout's path.
        names: our method's name -> its name in the checkout.
        flags: those of the checkout's parser, without dashes.

    Raises:
        InputError: for whatever one of our methods cannot be run with.
    """
    ours = {name: method for method, name in names.items()}
    asked, dataset = algorithm_and_dataset(argv)
    if asked not in ours:
        check_channels(asked, dataset)
        return Request(list(argv), None, {})
    given, rest = read_flags(argv)
    check_foreign(rest, flags)
    check_given(given)
    preset = given.pop("preset", None)
    del given["algorithm"]
    in_place = loader_defaults(ours[asked], given)
    run = resolve(ours[asked], given, in_place, preset)
    run = replace(run, origin={**run.origin, **dict.fromkeys(in_place, "WILDS checkout")})
    check_run(run, given)
    values = {n: value for n, value in run.values().items() if n not in NO_FLAGS}
    # Pairs go through the checkout's table: its parser reads 1e-8 as text and would merge its own defaults.
    passed = [
        n
        for n, value in values.items()
        if n in flags and (n in given or n in ("dataset", "root_dir")) and not isinstance(value, Mapping)
    ]
    device = run.train.device[0]
    if device in ("cpu", "auto"):
        passed.remove("device")  # without a GPU it takes the CPU, and has no word for it
    values["device"] = device.removeprefix("cuda").removeprefix(":") or "0"
    line = ["--algorithm", asked, *(word for n in passed for word in words(n, values[n])), *rest]
    if run.train.progress_bar is None and sys.stderr.isatty():
        line += ["--progress_bar", "true"]
    return Request(line, run, its_defaults(run, passed))


def algorithm_and_dataset(argv: Sequence[str]) -> tuple[Any, Any]:
    """What a command line asks for under these two names, whoever reads the rest; (None, None) for help."""
    if {"-h", "--help"} & set(argv):
        return None, None
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algorithm")
    parser.add_argument("-d", "--dataset")
    known = parser.parse_known_args(argv)[0]
    return known.algorithm, known.dataset


def check_channels(algorithm: str | None, dataset: str | None) -> None:
    """Raise if an algorithm of the checkout's own is to learn from images that are not RGB.

    Raises:
        InputError: since its networks and transforms expect three channels.
    """
    if algorithm is not None and dataset == "rxrx1_6ch":
        raise InputError(
            f"--algorithm {algorithm} of WILDS takes RGB images, and those of {dataset} have other channels; "
            "use an algorithm of ours, such as abra:ERM"
        )


def check_foreign(rest: Sequence[str], flags: Collection[str]) -> None:
    """Raise for arguments that are neither ours nor of use to the checkout.

    Raises:
        InputError: with a reason, or the flag that is near.
    """
    known = [f"--{name}" for name in sorted({*flags, *flags_by_name()})]
    for argument in rest:
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("--"):
            continue
        if name not in flags:
            near = difflib.get_close_matches(argument, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "flags are written out in full"
            raise InputError(f"unknown argument {argument!r}; {hint}")
        if name in WITHOUT_MEANING and name not in ANSWERED:
            raise InputError(
                f"--{name} has no meaning for this algorithm: {WITHOUT_MEANING[name]}; leave it out"
            )


def check_given(given: Mapping[str, Any]) -> None:
    """Raise for flags of ours that a checkout's loop cannot follow.

    Raises:
        InputError: with a reason.
    """
    for name, reason in NO_PLACE.items():
        if name in given:
            raise InputError(f"--{name} cannot be used inside a WILDS checkout: {reason}; leave it out")
    if launched() > 1:
        raise InputError(
            f"torchrun has started {launched()} processes, and a WILDS checkout trains in one; train by our "
            "own command, examples/run_expt.py"
        )
    devices = given.get("device", ["0"])
    if "cpu" in devices and torch.cuda.is_available():
        raise InputError(
            "--device must be the index of a device inside a WILDS checkout; got cpu; hide the "
            "devices from it by CUDA_VISIBLE_DEVICES="
        )
    if "mps" in devices:
        raise InputError("--device mps is unknown to a WILDS checkout; train by examples/run_expt.py")
    if len(devices) > 1:
        raise InputError(
            f"--device {' '.join(devices)}: WILDS would cut each batch into parts by DataParallel, and the "
            "statistics of a bio-batch would be those of its parts; give one device here, or train by "
            f"our own command: torchrun --nproc_per_node {len(devices)} examples/run_expt.py"
        )
    loader = given.get("train_loader", "group")
    if loader not in LOADERS:
        instead = (
            "inside a WILDS checkout one bio-batch a batch is --train_loader group --n_groups_per_batch 1"
            if loader == "plate"
            else "train by that, examples/run_expt.py"
        )
        raise InputError(f"--train_loader {loader} is a loader of our own command; {instead}")
    if given.get("eval_loader", "standard") != "standard":
        raise InputError("--eval_loader must be standard inside a WILDS checkout, which has no other")


def check_run(run: RunConfig, given: Mapping[str, Any]) -> None:
    """Raise for a method that a checkout's loop has no place for, or a given value it would not read.

    Raises:
        InputError: with the reason and what to do.
    """
    method = get_method(run.algorithm)
    outside = f"train {run.algorithm} by our own command, examples/run_expt.py"
    if method.view_plan is not Method.view_plan or method.head_phase is not Method.head_phase:
        raise InputError(
            f"{run.algorithm} trains in two phases, and the loop of a WILDS checkout has one; {outside}"
        )
    if "target_resolution" in given and run.data.transform == "rxrx1":
        raise InputError(
            "--target_resolution would have no effect here: WILDS' rxrx1 transform ignores it; add "
            "--transform paper or leave it out"
        )
    if run.data.train_loader not in LOADERS:
        raise InputError(
            f"{run.algorithm} needs --train_loader {run.data.train_loader}, which a WILDS checkout does not "
            f"have; {outside}"
        )
    if run.eval.tta != "none":
        raise InputError(
            f"--tta {run.eval.tta} groups images, and a WILDS checkout predicts them in their own order; "
            f"train {run.algorithm} with --tta none and adapt the saved model by `abra-wilds predict`"
        )


def loader_defaults(algorithm: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """WILDS' loader in place of the plate loader: one bio-batch a batch, all equally often."""
    plan = get_method(algorithm).plan
    if plan.train_loader != "plate" or given.get("train_loader", "group") != "group":
        return {}
    wanted = {"train_loader": "group", "n_groups_per_batch": 1}
    return {name: value for name, value in wanted.items() if name not in given}


def its_defaults(run: RunConfig, passed: Collection[str]) -> dict[str, Any]:
    """The run's values under the checkout's names, but for those that were passed as flags.

    The checkout copies them into its own configuration, so that its log.txt shows them all.
    """
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in run.values().items()
        if name not in passed and name not in ITS_OWN and name not in (*NO_FLAGS, "pretrained")
    }
    values["model_kwargs"] = {"pretrained": run.model.pretrained}
    values["target_resolution"] = list(run.data.target_resolution) or None
    return values


def words(name: str, value: Any) -> list[str]:
    """A flag as the checkout's parser reads it."""
    values = value if isinstance(value, list | tuple) else [value]
    return [f"--{name}", *(str(v).lower() if isinstance(v, bool) else str(v) for v in values)]
