"""Which runs a command is about: its flags, and what they choose."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from abra_wilds.board.sweep.spec import read_spec, spec_path
from abra_wilds.config.fields import path
from abra_wilds.errors import InputError
from abra_wilds.results.finished import all_entries
from abra_wilds.results.records import CONFIG
from abra_wilds.results.runs import Run, find_runs, read_run


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The arguments by which runs are chosen."""
    parser.add_argument("runs", type=path, metavar="RUNS", help="folder of run folders, or one of them")
    parser.add_argument(
        "--spec",
        type=path,
        metavar="SPEC",
        help="of RUNS take those alone that a sweep of this file or name leaves",
    )


def chosen_runs(args: argparse.Namespace) -> list[Run]:
    """The runs of `add_runs`.

    Raises:
        InputError: if there is none, the spec cannot be used, or a config.json is not a run's.
    """
    if args.spec is None:
        return find_runs(args.runs)
    spec = read_spec(spec_path(args.spec))
    below = [args.runs / row.folder / fold for row in spec.rows for fold in spec.fold_names]
    folders = [folder / f"seed{seed}" for folder in below for seed in spec.seeds]
    runs = [read_run(folder) for folder in folders if (folder / CONFIG).is_file()]
    if not runs:
        raise InputError(f"{args.runs} holds no run of {args.spec}; give the --out of its sweep")
    return runs


def check_adaptation(name: str, runs: Iterable[Run]) -> None:
    """Raise where an adaptation is asked for and runs have others alone.

    Raises:
        InputError: with those that there are.
    """
    found = {e.record.tta for e in all_entries(runs)} - {None}
    if found and name not in found:
        names = ", ".join(sorted(map(str, found)))
        raise InputError(f"--tta got {name!r}, and the runs have {names}; give one")
