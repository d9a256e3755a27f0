"""Every method, with and without test-time adaptation, on one simulated screen, over several seeds.

    python examples/benchmarks/methods/compare_methods.py comparison --records FILE.jsonl
    python examples/benchmarks/methods/compare_methods.py --table_only --records FILE.jsonl

Simulates the screen ("midi": RxRx1's experiments, 28 treatments of which a plate shows a quarter), trains
every row in a process of its own, predicts with its last epoch, and collects the records into one .jsonl
file, from which the tables are made. A second start keeps what is finished, or in the .jsonl file already.

Batch-norm statistics (re-estimated on all training images) and the epoch that counts (the last) are the same
for all; so are backbone, epochs, optimiser and augmentation, but for what stands in comparison_rows.py with a
reason. A bio-batch is an experiment, which holds all classes.

Only the screen's size, the backbone and the number of epochs were chosen, by ERM with seed 0: known
experiments should be recognised well and new ones less. No method was tuned.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comparison_page import SPLITS, as_page, as_text, table
from comparison_rows import SETTINGS, table_rows

from abra_wilds import fit, run_config
from abra_wilds.config.fields import path
from abra_wilds.config.run import RunConfig
from abra_wilds.data.datasets.catalogue import data_digest, load_dataset
from abra_wilds.engine.artifacts.folder import folder_of
from abra_wilds.engine.evaluation.saved import changed, predict_saved
from abra_wilds.errors import InputError
from abra_wilds.results.files import write_text
from abra_wilds.results.records import RESULTS, Record, read_records
from abra_wilds.simulate import ensure, preset
from abra_wilds.terminal import Parser, exit_cleanly


def run_folder(label: str, seed: int, args: argparse.Namespace) -> Path:
    """The folder of one run and its adaptations."""
    name = label.replace(" (", "_").replace(")", "")
    return Path(args.folder) / "runs" / name / f"seed{seed}"


def configuration(label: str, seed: int, args: argparse.Namespace, **more: Any) -> RunConfig:
    """The configuration of one run."""
    row = table_rows()[label]
    values = {
        **SETTINGS,
        **row.own,
        **({"n_epochs": args.n_epochs} if args.n_epochs else {}),
        "seed": seed,
        "device": [args.device],
        "root_dir": str(Path(args.folder) / "screen"),
        "log_dir": str(run_folder(label, seed, args) / "fit"),
    }
    config: RunConfig = run_config(row.algorithm, **values, **more)
    return config


def parts(label: str, seed: int, args: argparse.Namespace) -> Iterator[tuple[Path, str, Mapping[str, Any]]]:
    """Of a run, folder, digest and adaptation of each set of predictions; the first is the run's own."""
    config, folder = configuration(label, seed, args), run_folder(label, seed, args)
    for flags in ({}, *table_rows()[label].tta):
        adapted = changed(config, flags)
        yield folder / (adapted.eval.adaptation or "none"), adapted.digest(), flags


def wanted(records: Iterable[Record], digest: str, data: str | None = None) -> list[Record]:
    """The last epoch's records of these settings and data, one a split; none unless all are there."""
    fits = [r for r in records if r.config_sha256 == digest and data in (None, r.data_sha256)]
    found = {r.split: r for r in fits if r.checkpoint == "last"}
    return [found[split] for split in SPLITS] if set(SPLITS) <= found.keys() else []


def run_one(label: str, seed: int, args: argparse.Namespace) -> int:
    """Train one run unless its last epoch is there, and make the predictions that are missing."""
    config = configuration(label, seed, args, evaluate_all_splits=False)
    folder = folder_of(config)
    if not trained(config):
        shutil.rmtree(folder.path.parent, ignore_errors=True)
        fit(config)
    for out, digest, flags in parts(label, seed, args):
        if not wanted(read_records(out / RESULTS), digest):
            shutil.rmtree(out, ignore_errors=True)
            predict_saved(folder.model("last"), SPLITS, out, flags)
    return 0


def trained(config: RunConfig) -> bool:
    """Whether a run has a record of its last epoch, which training leaves at its end."""
    records = read_records(folder_of(config).path / RESULTS)
    return any(r.checkpoint == "last" and r.config_sha256 == config.digest() for r in records)


def in_process(label: str, seed: int, args: argparse.Namespace) -> tuple[float, str]:
    """`run_one` in a process of its own, on one thread; the seconds it took, and why it failed or ""."""
    began = time.monotonic()
    command = [sys.executable, __file__, str(args.folder), "--run", label, str(seed)]
    command += [f"--{name}={getattr(args, name)}" for name in ("n_epochs", "device") if getattr(args, name)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    shown = run_folder(label, seed, args).with_suffix(".failed.txt")
    shown.unlink(missing_ok=True)
    done = subprocess.run(
        command, env={**os.environ, **threads}, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        shown.parent.mkdir(parents=True, exist_ok=True)
        write_text(shown, done.stdout + done.stderr)
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return time.monotonic() - began, f"{last} ({shown})"
    return time.monotonic() - began, ""


def run_all(labels: Sequence[str], args: argparse.Namespace, path: Path) -> list[str]:
    """Every run that is not finished, seed after seed, collecting after each; the failures."""
    runs = [(row, seed) for seed in range(args.seeds) for row in labels if seed < table_rows()[row].seeds]
    there = collect(labels, args, path)
    done = {(row, r.config_sha256) for row, r in there}
    todo = [
        (row, seed)
        for row, seed in runs
        if not all((row, digest) in done for _, digest, _ in parts(row, seed, args))
    ]
    print(f"{len(runs)} runs, {len(runs) - len(todo)} finished before", flush=True)
    failures = []
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {pool.submit(in_process, row, seed, args): (row, seed) for row, seed in todo}
        for n, future in enumerate(as_completed(running), start=1):
            (row, seed), (seconds, failure) = running[future], future.result()
            state = f"FAILED: {failure}" if failure else f"{seconds:.0f} s"
            print(f"[{n}/{len(todo)}] {time.strftime('%H:%M:%S')} {row} seed {seed}: {state}", flush=True)
            if failure:
                failures.append(f"{row} seed {seed}: {failure}")
            write_rows(path, collect(labels, args, path))
    return failures


def collect(labels: Sequence[str], args: argparse.Namespace, path: Path) -> list[tuple[str, Record]]:
    """The records of everything that is finished, in this folder or before, with the row each belongs to.

    What was not asked for now stays as it is.
    """
    before = read_rows(path) if path.exists() else []
    data = data_digest(load_dataset("rxrx1", args.folder / "screen", split_scheme="official"))
    found = []
    for row in labels:
        known = [r for label, r in before if label == row]
        for seed in range(min(args.seeds, table_rows()[row].seeds)):
            for folder, digest, _ in parts(row, seed, args):
                here = wanted(read_records(folder / RESULTS), digest)
                found += [(row, record) for record in here or wanted(known, digest, data)]
    found += [(row, r) for row, r in before if row not in labels or r.seed >= args.seeds]
    order = list(table_rows())
    return sorted(found, key=lambda one: (order.index(one[0]), one[1].seed))


def write_rows(path: Path, rows: Sequence[tuple[str, Record]]) -> None:
    """Write the collection, whole or not at all."""
    write_text(path, "".join(json.dumps({"row": row, **asdict(record)}) + "\n" for row, record in rows))


def read_rows(path: Path) -> list[tuple[str, Record]]:
    """The records of a collection with their rows.

    Raises:
        InputError: for a line that is none, or not of simulated data.
    """
    found = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            found.append((values.pop("row"), Record(**values)))
    except (OSError, ValueError, TypeError, KeyError) as fault:
        raise InputError(f"{path} holds no records of a comparison ({fault}); make it again") from None
    if not all(record.simulated for _, record in found):
        raise InputError(f"{path} holds records of data that is not simulated; make it again")
    return found


def compare(args: argparse.Namespace) -> int:
    """Everything; returns the exit code."""
    if args.run:
        return run_one(args.run[0], int(args.run[1]), args)
    path = args.records or args.folder / "methods_simulated.jsonl"
    failures: list[str] = []
    if not args.table_only:
        labels = [label for label in table_rows() if not args.only or label in args.only]
        ensure(args.folder / "screen", preset(args.screen), workers=args.jobs)
        failures = run_all(labels, args, path)
    rows = read_rows(path)
    if rows:
        print(as_text(table(rows)))
        write_text(path.with_suffix(".md"), as_page(rows, args.screen))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=path, default=Path("comparison"), help="screen and runs")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... of each row")
    parser.add_argument("--n_epochs", type=int, help="of every row; unset: those of comparison_rows.py")
    parser.add_argument("--screen", choices=("mini", "midi"), default="midi", help="preset of the simulator")
    parser.add_argument("--only", nargs="+", choices=list(table_rows()), metavar="ROW", help="these rows")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, of one thread each")
    parser.add_argument("--device", default="cpu", help="index of a CUDA device, or cpu")
    parser.add_argument("--records", type=path, help="the collection; its table is written beside it as .md")
    parser.add_argument("--table_only", action="store_true", help="make the table of --records again")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args: argparse.Namespace = parser.parse_args()
    return args


if __name__ == "__main__":
    sys.exit(exit_cleanly(lambda: compare(parse())))
