"""Whether runs whose labels were shuffled in training are at chance on new bio-batches.

    abra-wilds sweep claims_shuffled --out RUNS --devices cpu
    python examples/benchmarks/methods/at_chance.py RUNS

Of every run and adaptation below RUNS: how many images of --split are named right, how many a prediction that
is independent of the labels would name, and p of the exact binomial test, adjusted by Holm over all of them.
Where predictions follow what images have in common, images are not independent, and p is too small. The
exit code is 1 where an adjusted p is below --level.
"""

from __future__ import annotations

import argparse
import sys

from abra_wilds.config.fields import path
from abra_wilds.data.datasets.catalogue import split_subset
from abra_wilds.engine.artifacts.configs import run_config_of
from abra_wilds.engine.setup import open_dataset
from abra_wilds.errors import InputError
from abra_wilds.results.files import read_predictions
from abra_wilds.results.records import CONFIG, aligned
from abra_wilds.results.runs import Run, find_runs, read_adapted, read_entries
from abra_wilds.results.significance import agreement, holm
from abra_wilds.terminal import Parser, exit_cleanly


def judge(args: argparse.Namespace) -> int:
    """Everything; returns the exit code."""
    found = [row for run in find_runs(args.runs) for row in agreements(run, args.split)]
    adjusted = holm([p for *_, p in found])
    rows = [["run", "TTA", "n", "right", "by chance", "p (Holm)"]]
    rows += [
        [name, tta, str(n), f"{right / n:.3f}", f"{chance:.3f}", f"{q:.2g}"]
        for (name, tta, n, right, chance, _), q in zip(found, adjusted, strict=True)
    ]
    print(aligned(rows, left=2))
    return int(min(adjusted, default=1.0) < args.level)


def agreements(run: Run, split: str) -> list[tuple[str, str, int, int, float, float]]:
    """Of a run's predictions of its last epoch: name, adaptation, images, right ones, chance and p.

    Raises:
        InputError: for a run whose labels were not shuffled.
    """
    config = run_config_of(run.config, run.path / CONFIG)
    if config.data.shuffle_labels is None:
        raise InputError(f"{run.path} was trained with its labels; give runs with --shuffle_labels")
    y = split_subset(open_dataset(config), split, config.data.frac).y_array.tolist()
    entries = [e for e in (*read_entries(run), *read_adapted(run)) if e.record.split == split]
    rows = []
    for entry in (e for e in entries if e.record.checkpoint == "last"):
        right, chance, p = agreement(read_predictions(entry.predictions), y)
        rows.append((str(run.path), entry.record.tta or "none", len(y), right, chance, p))
    return rows


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=path, metavar="RUNS", help="folder of run folders, or one of them")
    parser.add_argument("--split", default="test", help="of bio-batches that training has not seen")
    parser.add_argument("--level", type=float, default=1e-3, help="of Holm's p")
    args: argparse.Namespace = parser.parse_args()
    return args


if __name__ == "__main__":
    sys.exit(exit_cleanly(lambda: judge(parse())))
