"""What `make demo` runs: simulate a small screen, train ERM and ABRA on it, print their table.

    python examples/quickstart.py demo

The data are simulated: the table shows that the machinery works, and nothing about biology. Both get the same backbone, epochs and optimiser; each keeps its own batches and augmentation.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from abra_wilds import fit, run_config
from abra_wilds.cli import guarded
from abra_wilds.data.simulate import preset, simulate
from abra_wilds.records import Record, results_table

# A ResNet-18 from random weights learns the small screen in minutes on two cores; the paper's rate of 1e-2 is
# for another network and batch.
SETTINGS = {
    "model": "resnet18",
    "pretrained": False,
    "n_epochs": 14,
    "batch_size": 32,
    "lr": 1e-3,
    "warmup_epochs": 1.0,
    "warmup_from": 1e-4,
    "loader_kwargs": {"num_workers": 2},
}


def main(folder: Path) -> int:
    """Simulate unless it was done before, train both, print one table."""
    began = time.monotonic()
    if not (folder / "rxrx1_v1.0").exists():
        print(f"Simulating a screen in {folder}")
        simulate(folder, preset("mini"), workers=2)
    records: list[Record] = []
    for algorithm in ("ERM", "ABRA"):
        where = {"root_dir": str(folder), "log_dir": str(folder / algorithm), "overwrite": True}
        settings = {**SETTINGS, **where}
        flags = " ".join(f"--{k} {v}" for k, v in settings.items() if not isinstance(v, dict))
        print(f"\nSame as: python examples/run_expt.py --dataset rxrx1 --algorithm {algorithm} {flags}\n")
        records += [r for r in fit(run_config(algorithm, **settings)) if r.checkpoint == "best"]
    print(f"\n{results_table(records)}")
    print(f"Runs are in {folder}/ERM and {folder}/ABRA. {time.monotonic() - began:.0f} seconds in all.")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"), help="where data and runs go")
    arguments = parser.parse_args()
    sys.exit(guarded(lambda: main(arguments.folder)))
