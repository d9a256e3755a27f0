"""`abra-wilds wilds CHECKOUT -- ARGS`: a script of a checkout, with our methods in it."""

from __future__ import annotations

import argparse
import runpy
import sys
from importlib.metadata import version

from abra_wilds.config.fields import path
from abra_wilds.errors import InputError
from abra_wilds.harness.checkout import find_checkout
from abra_wilds.harness.register import Harness, registered

SCRIPTS = ("run_expt.py", "evaluate.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments; the script's follow after `--`."""
    parser.add_argument("checkout", type=path, metavar="CHECKOUT", help="clone of p-lambda/wilds, 2.0 line")
    parser.add_argument("--script", default=SCRIPTS[0], choices=SCRIPTS, help="which of its scripts to run")


def run(args: argparse.Namespace) -> int:
    """Run the script; returns 0 once it has ended well.

    Raises:
        InputError: before anything is written, for whatever cannot be used.
    """
    checkout = find_checkout(args.checkout)
    with registered(checkout) as harness:
        print(opening_of_harness(harness), file=sys.stderr)
        argv = args.rest
        if args.script == "run_expt.py":
            argv = harness.ready(argv, args.command)
        sys.argv = [args.script, *argv]
        try:
            runpy.run_path(str(checkout.examples / args.script), run_name="__main__")
        except InputError as fault:
            # Out of a worker process it arrives with that process' traceback before it.
            raise InputError(
                str(fault).strip().splitlines()[-1].partition("InputError: ")[2] or fault
            ) from None
    return 0


def opening_of_harness(harness: Harness) -> str:
    """Which checkout runs with which wilds, our methods' names in it, and what was supplied in memory."""
    lines = [f"{harness.checkout}; wilds {version('wilds')} is the package it imports"]
    lines.append(f"algorithms of abra_wilds: {', '.join(harness.names.values())}")
    lines += [f"supplied in memory: {package} ({what})" for package, what in harness.supplied.items()]
    return "\n".join(lines)
