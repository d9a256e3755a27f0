"""`examples/run_expt.py`: WILDS' flags, ours, and one sentence for whatever cannot be run."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from abra_wilds.config.fields import Flag, expanded
from abra_wilds.config.files import once, read_settings, read_value
from abra_wilds.config.run import RunConfig
from abra_wilds.errors import InputError
from abra_wilds.methods import METHODS
from abra_wilds.recipes.numbers import PRESETS
from abra_wilds.recipes.resolve import all_flags, resolve
from abra_wilds.results.files import named_yaml
from abra_wilds.terminal import Parser

# Flags beside those of the sections and methods.
OUTSIDE = ("algorithm", "preset", "config", "model_kwargs", "help")
NO_UNLABELED = "no method here trains on unlabeled images"
# WILDS' flags without a meaning here, so that a command carried over says why it stops.
WITHOUT_MEANING = {
    **dict.fromkeys(
        (
            "unlabeled_split",
            "unlabeled_version",
            "use_unlabeled_y",
            "unlabeled_loader_kwargs",
            "unlabeled_n_groups_per_batch",
            "unlabeled_batch_size",
            "teacher_model_path",
            "noisystudent_add_dropout",
            "noisystudent_dropout_rate",
            "self_training_lambda",
            "self_training_threshold",
            "pseudolabel_T2",
            "soft_pseudolabels",
            "process_pseudolabels_function",
            "afn_penalty_weight",
            "safn_delta_r",
            "hafn_r",
            "use_hafn",
        ),
        NO_UNLABELED,
    ),
    **dict.fromkeys(
        ("dann_featurizer_lr", "dann_classifier_lr", "dann_discriminator_lr"),
        "--lr is the featurizer's rate, and the others are multiples of it, --dann_classifier_lr_factor and "
        "--dann_discriminator_lr_factor",
    ),
    "dataset_kwargs": "the data sets take no further arguments",
    "download": "WILDS' own download no longer answers; the README says how to get the data",
    "additional_train_transform": "WILDS' rxrx1 transform ignores it; --transform names our augmentations",
    "randaugment_n": "WILDS' rxrx1 transform ignores it",
    "resize_scale": "images are resized by --target_resolution",
    "max_token_length": "the inputs are images",
    "loss_function": "the loss belongs to the algorithm",
    "loss_kwargs": "the loss belongs to the algorithm",
    "algo_log_metric": "accuracy is always logged",
    "process_outputs_function": "predictions are class ids",
    "scheduler_metric_split": "schedules are functions of the step",
    "scheduler_metric_name": "schedules are functions of the step",
    "use_wandb": "curves are written by --tracker",
    "wandb_api_key_path": "curves are written by --tracker",
    "wandb_kwargs": "curves are written by --tracker",
}


def parse_bool(text: str) -> bool:
    """True or False, as WILDS writes them."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() == "true"


def parse_pair(text: str) -> tuple[str, Any]:
    """key=value, with numbers and booleans read as such."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"expected key=value, got {text!r}")
    try:
        read = read_value(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"cannot read the value of {text!r}") from None
    try:
        return key, float(read) if isinstance(read, str) else read  # YAML reads 1e-4 as text
    except ValueError:
        return key, read


def add_flag(parser: argparse._ActionsContainer, name: str, flag: Flag, default: Any) -> None:
    """The flag of one field; absent flags leave no trace, so that presets can fill in."""
    parse: Callable[[str], Any] = {bool: parse_bool, dict: parse_pair}.get(flag.kind, flag.kind)
    kwargs: dict[str, Any] = {"type": parse, "default": argparse.SUPPRESS}
    if flag.kind is bool:
        kwargs |= {"nargs": "?", "const": True}
    elif flag.many or flag.kind is dict:
        kwargs["nargs"] = "+" if flag.many else "*"
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    text = flag.help + (f" [{', '.join(map(str, flag.choices))}]" if flag.choices else "")
    ranged = f"{flag.range}; " if flag.range else ""
    kwargs["help"] = f"{text} ({ranged}default: {shown})".replace("%", "%%")
    kwargs["metavar"] = flag.kind.__name__.upper() if flag.kind is not dict else "KEY=VALUE"
    short = ["-d"] if name == "dataset" else []
    parser.add_argument(*short, f"--{name}", **kwargs)


def flag_parser() -> Parser:
    """Every flag of every section and method."""
    parser = Parser(
        prog="run_expt.py",
        allow_abbrev=False,
        description="Train and evaluate one algorithm on RxRx1; flags carry WILDS' names and meanings. The "
        "preset or the method sets many otherwise than the defaults below: --dry_run shows each value, and "
        "where it is from.",
    )
    parser.add_argument("--algorithm", metavar="NAME", help=f"[{', '.join(METHODS)}]")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"numbers to start from [{', '.join(PRESETS)}]; unset: the method's own",
    )
    parser.add_argument(
        "--config",
        metavar="FILE.yaml",
        help="flags without dashes and their values, or a name such as adabn; flags win over it",
    )
    parser.add_argument(
        "--model_kwargs",
        nargs="*",
        type=parse_pair,
        default=argparse.SUPPRESS,
        metavar="KEY=VALUE",
        help="WILDS' way to write --pretrained: pretrained=False",
    )
    schema = all_flags()
    for section in schema.sections:
        group = parser.add_argument_group(section)
        for name, setting in schema.of(section).items():
            add_flag(group, name, setting.flag, setting.default)
    return parser


def parse(argv: Sequence[str]) -> RunConfig:
    """The configuration a command line asks for.

    Raises:
        InputError: for whatever in it cannot be used.
    """
    flags, unknown = read_flags(argv)
    if unknown:
        refuse(unknown[0], [f"--{name}" for name in OUTSIDE] + [f"--{name}" for name in flags_by_name()])
    algorithm, preset, path = (flags.pop(name, None) for name in ("algorithm", "preset", "config"))
    file = read_settings(recipe(path), "--config") if path else {}
    algorithm, preset = algorithm or file.pop("algorithm", None), preset or file.pop("preset", None)
    if algorithm is None:
        raise InputError(f"--algorithm is missing; choose one of {', '.join(METHODS)}")
    return resolve(
        algorithm, flags, {k: v for k, v in file.items() if k not in ("algorithm", "preset")}, preset
    )


def read_flags(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The flags that a command line gives, by name and in their types, and the arguments that are none.

    Raises:
        InputError: for a value that cannot be read.
    """
    found, unknown = flag_parser().parse_known_args(argv)
    flags = {name: value for name, value in vars(found).items() if value is not None}
    model_kwargs = once(flags.pop("model_kwargs", []), "model_kwargs")
    if set(model_kwargs) - {"pretrained"} or "pretrained" in flags.keys() & model_kwargs.keys():
        raise InputError(
            f"--model_kwargs takes pretrained=True|False, once with --pretrained; got {model_kwargs}"
        )
    kinds = flags_by_name()
    flags = {k: once(v, k) if k in kinds and kinds[k].kind is dict else v for k, v in flags.items()}
    return flags | model_kwargs, unknown


def refuse(argument: str, known: Sequence[str]) -> NoReturn:
    """Raise for an argument that is no flag of ours.

    Raises:
        InputError: saying why a flag of WILDS means nothing here, or which flag is near.
    """
    name = argument.lstrip("-").partition("=")[0]
    if name in WITHOUT_MEANING:
        raise InputError(f"--{name} has no meaning here: {WITHOUT_MEANING[name]}; leave it out")
    near = difflib.get_close_matches(argument, known, n=1)
    raise InputError(
        f"unknown argument {argument!r}; {f'did you mean {near[0]}?' if near else '--help lists the flags'}"
    )


def recipe(name: str) -> Path:
    """The file that --config names: a path, or one of the package's recipes without its ending.

    >>> recipe("controls/c1_erm").name
    'c1_erm.yaml'
    """
    return named_yaml(expanded(name, "--config"), Path(__file__).parent)


def flags_by_name() -> dict[str, Flag]:
    """Every flag's description."""
    return {name: setting.flag for name, setting in all_flags().settings.items()}
