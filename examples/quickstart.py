"""What `make demo` runs: a small simulated screen, ERM and ABRA trained on it, and what comes of their runs.

    python examples/quickstart.py demo

Every step is a command that is printed first and can be given by hand. The data are simulated: tables and
figures show that the machinery works, and nothing about biology. A second start goes on where the first
ended.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from scipy.stats import t as student_t

from abra_wilds.config.fields import path
from abra_wilds.engine.evaluation.certificates import certificates_path
from abra_wilds.errors import InputError
from abra_wilds.results.finished import all_entries
from abra_wilds.results.records import aligned
from abra_wilds.results.runs import find_runs
from abra_wilds.results.significance import mean_std
from abra_wilds.simulate import preset, simulate
from abra_wilds.terminal import exit_cleanly

BOARD = Path(__file__).resolve().parents[1] / "leaderboard"
# A plate of this screen shows too few treatments for statistics of a plate: see the spec.
BIO_BATCH = "experiment"


def steps(folder: Path) -> Iterator[tuple[str, list[object]]]:
    """What is done, in words, and the script that does it with its arguments."""
    runs, archive, data = folder / "runs", folder / "ABRA.tar.gz", ("--root_dir", folder)
    # On a CPU two runs of one thread each are done sooner than one after the other.
    devices = () if torch.cuda.is_available() else ("--devices", "cpu", "--jobs", 2)
    yield "Train three seeds each, and adapt them", ["sweep.py", "demo", "--out", runs, *data, *devices]
    yield "Bundle ABRA's predictions", ["bundle.py", runs / "ABRA", "--out", archive]
    yield "Score the bundle with the official evaluators", ["verify.py", archive, *data]
    figures = folder / "figures"
    model = next(runs.glob("ABRA/seed0/*_epoch?best_model.pth"))
    shift = ("--figure", 8, 9, 10, "--tta_group", BIO_BATCH, "--checkpoint", model)
    yield "Draw shifts of statistics, and embeddings", ["figures.py", runs, "--out", figures, *shift]
    page = ("--out", folder / "report.html", "--figures", figures, *data)
    yield "Make one page of it all", ["report.py", runs, *page]
    ours = ("--table", 3, 4, 5, "--backbone", "timm:test_resnet", "--tta", f"plate_bn_{BIO_BATCH}")
    yield "Make the paper's tables", ["tables.py", runs, "--out", folder / "tables", *ours]


def on_new_experiments(runs: Path) -> tuple[dict[tuple[str, str], list[float]], list[dict[str, str]]]:
    """Accuracies in percent by method and adaptation, over seeds, and the certificates of all of them."""
    accs: dict[tuple[str, str], list[float]] = {}
    certificates: list[dict[str, str]] = []
    for entry in all_entries(find_runs(runs)):
        r, path = entry.record, certificates_path(entry.predictions)
        if (r.split, r.checkpoint) != ("test", "best"):
            continue
        accs.setdefault((r.method, r.tta or "none"), []).append(100 * r.acc)
        if path.is_file():
            with open(path, encoding="utf-8", newline="") as file:
                certificates += csv.DictReader(file)
    return accs, certificates


def summary(runs: Path) -> str:
    """Methods and adaptations on new experiments, whether to adapt, and what the predictions are worth."""
    accs, certificates = on_new_experiments(runs)
    rows = [["method", "adaptation", "new experiments, %", "seeds"]]
    rows += [[*key, interval(found), str(len(found))] for key, found in accs.items()]
    advice = Counter(c["advice"] for c in certificates).most_common()
    n = sum(int(c["images"]) for c in certificates)
    right = sum(float(c["accuracy"]) * int(c["images"]) for c in certificates) / max(n, 1)
    doubted = sum(c["trusted"] != "True" for c in certificates)
    adapted = [acc for (_, tta), found in accs.items() if tta.startswith("eb_bn") for acc in found]
    by_labels = f"{sum(adapted) / len(adapted):.1f}%" if adapted else "not known"
    return (
        f"Simulated data. Accuracy with its 95 % interval over seeds:\n\n{aligned(rows, left=2)}\n\n"
        f"Adapt? {len(certificates)} times a model met a new experiment: "
        f"{', '.join(f'{words} {count}' for words, count in advice)}.\n"
        f"Certificates: an estimated {right:.1%} of the adapted predictions are right, without a label; by "
        f"the labels {by_labels} are, controls included. {doubted} are not to be trusted."
    )


def interval(values: list[float]) -> str:
    """Mean and half the width of Student's 95 % interval."""
    mean, std = mean_std(values)
    half = "" if std is None else f" ± {student_t.ppf(0.975, len(values) - 1) * std / len(values) ** 0.5:.1f}"
    return f"{mean:.1f}{half}"


def main(folder: Path) -> int:
    """Take every step.

    Raises:
        InputError: if one fails.
    """
    began = time.monotonic()
    if not (folder / "rxrx1_v1.0").exists():
        print(f"Simulate a screen\n  abra-wilds simulate {folder}", flush=True)
        simulate(folder, preset("mini"), workers=2, progress=True)
    for what, (script, *words) in steps(folder):
        command = [str(BOARD / str(script)), *map(str, words)]
        print(f"\n{what}\n  python {shlex.join(command)}\n", flush=True)
        code = subprocess.run([sys.executable, *command]).returncode
        if code:
            raise InputError(f"{script} ended with exit code {code}; fix what it says, and start again")
    print(f"\n{summary(folder / 'runs')}\n")
    print(f"{time.monotonic() - began:.0f} seconds in all. To read: {folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=path, default=Path("demo"), help="where everything goes")
    arguments = parser.parse_args()
    sys.exit(exit_cleanly(lambda: main(arguments.folder)))
