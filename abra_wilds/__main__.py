"""`abra-wilds`: everything around the main command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from abra_wilds.terminal import RESUMING, Parser, exit_cleanly

# Job -> what it does; the module of the same name declares its arguments and does it.
JOBS = {
    "train": "train and evaluate a method, as examples/run_expt.py",
    "doctor": "versions, devices, what is missing and how to fix it",
    "simulate": "write a simulated screen like RxRx1",
    "fetch": "download RxRx1 or another image set of WILDS, resumed where it broke off, and checked",
    "screen": "write the settings of a screen of your own beside it",
    "pack": "write images as one array a plate, which loaders read faster",
    "validate": "read every file of a data set and of its packs",
    "qc": "which plates, wells and sites not to trust: focus, saturation, empty wells, stains",
    "predict": "predict with a saved model, with or without adaptation",
    "model": "write a saved model as a folder that needs no data",
    "export": "write a model, adaptation included, as ONNX or for torch without this package",
    "components": "measure and keep what --tta eb_bn needs to know of a saved model",
    "embed": "write what a saved model reads of images, as profiles of wells",
    "audit": "whether a saved model, or its screen, has shortcuts to the classes",
    "wilds": "run our methods inside an unmodified checkout of WILDS",
    "sweep": "all runs of a table or an ablation, here or on Slurm",
    "bundle": "what the WILDS leaderboard asks for, from run folders",
    "verify": "the scores of a bundle, by WILDS' evaluator",
    "tables": "the paper's tables from run folders",
    "figures": "the paper's figures from run folders and saved models",
    "report": "one page about runs",
    "claims": "the paper's claims, tested on records",
}
# The folders of commands/ beside it.
ROOMS = {
    "board": ("sweep", "bundle", "verify", "tables", "figures", "report", "claims"),
    "data": ("simulate", "fetch", "pack", "validate", "screen", "qc"),
}
USAGE = {"wilds": "%(prog)s CHECKOUT [--script NAME] -- ARGS"}


def make_parser(job: str | None) -> Parser:
    """One sub-command for each job; only the one asked for is imported, so that doctor always starts."""
    parser = Parser(prog="abra-wilds", description="Tools around training with abra_wilds.")
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    for name, what in JOBS.items():
        own = jobs.add_parser(name, help=what, usage=USAGE.get(name))
        if name == job:
            room = next((f"{room}." for room, names in ROOMS.items() if name in names), "")
            module = import_module(f"abra_wilds.commands.{room}{name}")
            module.add_arguments(own)
            own.set_defaults(run=module.run)
    return parser


def split_at_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before and after `--`; only `wilds` hands on what comes after it.

    >>> split_at_dashes(["wilds", "co", "--", "--seed", "1"])
    (['wilds', 'co'], ['--seed', '1'])
    """
    if words[:1] != ["wilds"] or "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["train"]:  # its flags depend on what they say
        from abra_wilds.commands.train import main as train

        return train(words[1:])

    def body() -> int:
        own, rest = split_at_dashes(words)
        args = make_parser(words[0] if words else None).parse_args(own)
        args.command, args.rest = ["abra-wilds", *words], rest
        code: int = args.run(args)
        return code

    return exit_cleanly(body, RESUMING) if words[:1] == ["wilds"] else exit_cleanly(body)


if __name__ == "__main__":
    sys.exit(main())
