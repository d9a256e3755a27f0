"""`abra-wilds`: everything around the main command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from abra_wilds.cli import Parser, guarded
from abra_wilds.doctor import run as run_doctor


def make_parser() -> Parser:
    """One sub-command for each job."""
    parser = Parser(prog="abra-wilds", description="Tools around training with abra_wilds.")
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")

    doctor = jobs.add_parser("doctor", help="versions, devices, what is missing and how to mend it")
    doctor.set_defaults(run=lambda args: run_doctor())

    from abra_wilds.data import simulate

    simulation = jobs.add_parser(
        "simulate",
        help="write a simulated screen in RxRx1-WILDS' or RxRx1's own layout",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    simulate.add_arguments(simulation)
    simulation.set_defaults(run=simulate.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""

    def body() -> int:
        args = make_parser().parse_args(argv)
        code: int = args.run(args)
        return code

    return guarded(body)
