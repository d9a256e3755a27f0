"""`abra-wilds wilds CHECKOUT -- ARGS`: a script of a checkout, with our methods in it."""

from __future__ import annotations

import argparse
import runpy
import sys
from importlib.metadata import version

import numpy as np

from abra_wilds.config import RunConfig
from abra_wilds.data.wilds_data import check_images, load_dataset
from abra_wilds.engine.folder import check_same_run, open_folder
from abra_wilds.harness.checkout import find_checkout
from abra_wilds.harness.register import Harness, registered

SCRIPTS = ("run_expt.py", "evaluate.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments; the script's follow behind `--`."""
    parser.add_argument("checkout", metavar="CHECKOUT", help="folder of a clone of p-lambda/wilds, 2.0 line")
    parser.add_argument("--script", default=SCRIPTS[0], choices=SCRIPTS, help="which of its scripts to run")
    parser.add_argument("args", nargs="*", metavar="ARGS", help="behind --: the script's own arguments")


def run(args: argparse.Namespace) -> int:
    """Run the script; returns 0 once it has ended well.

    Raises:
        InputError: before anything is written, for whatever cannot be used.
    """
    checkout = find_checkout(args.checkout)
    with registered(checkout) as harness:
        print(opening(harness), file=sys.stderr)
        argv = list(args.args)
        if args.script == "run_expt.py":
            argv = harness.arguments(argv)
            if harness.run is not None:
                prepare(harness, harness.run, argv)
        sys.argv = [args.script, *argv]
        runpy.run_path(str(checkout.examples / args.script), run_name="__main__")
    return 0


def opening(harness: Harness) -> str:
    """Which checkout runs with which wilds, our methods' names in it, and what was supplied in memory."""
    lines = [f"{harness.checkout}; wilds {version('wilds')} is the package it imports"]
    lines.append(f"algorithms of abra_wilds: {', '.join(harness.names.values())}")
    lines += [f"supplied in memory: {package} ({what})" for package, what in harness.supplied.items()]
    return "\n".join(lines)


def prepare(harness: Harness, config: RunConfig, argv: list[str]) -> None:
    """Check data and folder of a run of ours before the checkout opens a file.

    Raises:
        InputError: one sentence for whatever cannot be used.
    """
    d = config.data
    if "--download" not in argv:
        dataset = load_dataset(d.dataset, d.root_dir, d.version, d.split_scheme)
        check_images(dataset, np.flatnonzero(np.isin(dataset.split_array, list(dataset.split_dict.values()))))
        harness.preload(dataset)
    if config.train.resume or config.eval.eval_only:
        check_same_run(open_folder(config), config)
    else:
        open_folder(config)
