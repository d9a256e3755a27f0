"""`abra-wilds`: everything around the main command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from abra_wilds.terminal import RESUMING, Parser, guarded


def make_parser(job: str | None) -> Parser:
    """One sub-command for each job; only the one asked for is imported, so that doctor always starts."""
    parser = Parser(prog="abra-wilds", description="Tools around training with abra_wilds.")
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    doctor = jobs.add_parser("doctor", help="versions, devices, what is missing and how to mend it")
    simulation = jobs.add_parser("simulate", help="write a simulated screen like RxRx1")
    fetching = jobs.add_parser("fetch", help="download RxRx1, resumed where it broke off, and checked")
    packing = jobs.add_parser("pack", help="write images as one array a plate, which loaders read faster")
    validation = jobs.add_parser("validate", help="read every file of a data set and of its packs")
    prediction = jobs.add_parser("predict", help="predict with a saved model, with or without adaptation")
    embedding = jobs.add_parser(
        "embed", help="write what a saved model reads of images, as profiles of wells"
    )
    wilds = jobs.add_parser(
        "wilds",
        help="run our methods inside an unmodified checkout of WILDS",
        usage="%(prog)s CHECKOUT [--script NAME] -- ARGS",
    )
    if job == "doctor":
        add_doctor(doctor)
    elif job == "simulate":
        add_simulate(simulation)
    elif job == "fetch":
        add_fetch(fetching)
    elif job == "pack":
        add_pack(packing)
    elif job == "validate":
        add_validate(validation)
    elif job == "predict":
        add_predict(prediction)
    elif job == "embed":
        add_embed(embedding)
    elif job == "wilds":
        add_wilds(wilds)
    return parser


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """`abra-wilds doctor [CHECKOUT]`."""
    from abra_wilds.doctor import run

    parser.add_argument(
        "checkout", nargs="?", metavar="CHECKOUT", help="also what keeps a checkout of WILDS from starting"
    )
    parser.set_defaults(run=lambda args: run(args.checkout))


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """`abra-wilds simulate ROOT`."""
    from abra_wilds.data import simulate

    simulate.add_arguments(parser)
    parser.set_defaults(run=simulate.run)


def add_fetch(parser: argparse.ArgumentParser) -> None:
    """`abra-wilds fetch DATASET [ROOT]`."""
    from abra_wilds.data.fetch import command

    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def add_pack(parser: argparse.ArgumentParser) -> None:
    """`abra-wilds pack ROOT`."""
    from abra_wilds.data import pack

    pack.add_arguments(parser)
    parser.set_defaults(run=pack.run)


def add_validate(parser: argparse.ArgumentParser) -> None:
    """`abra-wilds validate ROOT`."""
    from abra_wilds.data import validate

    validate.add_arguments(parser)
    parser.set_defaults(run=validate.run)


def add_predict(parser: argparse.ArgumentParser) -> None:
    """`abra-wilds predict CHECKPOINT`."""
    from abra_wilds import predict

    predict.add_arguments(parser)
    parser.set_defaults(run=predict.run)


def add_embed(parser: argparse.ArgumentParser) -> None:
    """`abra-wilds embed CHECKPOINT`."""
    from abra_wilds import embed

    embed.add_arguments(parser)
    parser.set_defaults(run=embed.run)


def add_wilds(parser: argparse.ArgumentParser) -> None:
    """`abra-wilds wilds CHECKOUT -- ARGS`."""
    from abra_wilds.harness import command

    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def split_behind(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before and behind `--`; only `wilds` hands on what is behind it.

    >>> split_behind(["wilds", "co", "--", "--seed", "1"])
    (['wilds', 'co'], ['--seed', '1'])
    """
    if words[:1] != ["wilds"] or "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)

    def body() -> int:
        own, behind = split_behind(words)
        args = make_parser(words[0] if words else None).parse_args(own)
        args.command, args.behind = ["abra-wilds", *words], behind
        code: int = args.run(args)
        return code

    return guarded(body, RESUMING) if words[:1] == ["wilds"] else guarded(body)
