"""All runs of a table or an ablation: rows x seeds of a YAML file, here or on Slurm.

    python leaderboard/sweep.py table_3 --out runs --root_dir data --devices 0 1

Every run is a process of the main command in RUNS/ROW/seedS, with its output in RUNS/ROW/seedS.log; after it
come its adaptations by `abra-wilds predict`. The same command goes on where it stopped: finished runs are
known by the digest of their configuration and are left alone, those that broke off go on after their last
complete epoch. Sweeps that are started side by side share the work. A sweep that names a simulated screen
makes it first, in RUNS/screen unless --root_dir says where.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from abra_wilds.board.sweep.build import sweep
from abra_wilds.board.sweep.launch import Programs
from abra_wilds.config.fields import path
from abra_wilds.terminal import alone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("spec", type=path, metavar="SPEC", help="the sweep's file, or a name such as table_3")
    parser.add_argument("--out", type=path, required=True, metavar="RUNS", help="folder of all run folders")
    parser.add_argument(
        "--root_dir", type=path, metavar="ROOT", help="of the data; unset: as in the main command"
    )
    parser.add_argument(
        "--screen",
        type=path,
        metavar="TABLE",
        help="table or folder of the images, for a sweep over a screen",
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", help="labels of the rows to do; unset: all")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="S", help="seeds to do; unset: all")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs side by side; unset: as devices allow")
    parser.add_argument(
        "--devices", nargs="+", metavar="D", help="CUDA indices, mps or cpu; unset: the first"
    )
    parser.add_argument(
        "--slurm",
        nargs="*",
        metavar="KEY=VALUE",
        help="submit a job for each run, by sbatch's names: time=MINUTES partition=... cpus_per_task=...",
    )
    parser.add_argument(
        "--records", type=path, metavar="FILE", help="also write the records of what is finished, as .jsonl"
    )
    parser.add_argument("--dry_run", action="store_true", help="show what is left and its commands, and stop")


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    return sweep(args, Programs.ours())


def main(argv: Sequence[str] | None = None, programs: Programs | None = None) -> int:
    """`leaderboard/sweep.py`: the same as a script.

    Args:
        argv: arguments; None takes this process'.
        programs: what is started; None for ours.
    """
    return alone(__doc__, add_arguments, lambda args: sweep(args, programs or Programs.ours()), argv)


if __name__ == "__main__":
    sys.exit(main())
