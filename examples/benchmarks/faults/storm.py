"""Random kills of commands: what is left, and whether the same command ends it alike.

    python examples/benchmarks/faults/storm.py FOLDER --kills 200 --json leaderboard/records/storm.json

The jobs are training, packing, sweeping, fetching and bundling. Each is first done without a kill. Then it
is started, killed (SIGKILL, its processes too) after a random time of up to its whole length, checked and
started again, until it ends by itself; what it left must be what the undisturbed job left, byte for byte but
for times. After every kill each file that looks whole must be:
checkpoints load, csv lines have their columns, JSON its end; a data set and an archive are there as they
come out in the end, or not at all. The data are simulated, and fetched from a slow server of the storm's own.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import circumstances, deliver, make_parser
from storm_jobs import Job, begin, jobs, lines, prepare, served
from tqdm import tqdm

from abra_wilds.results.files import write_text


def broken(job: Job, expected: dict[str, Any]) -> list[str]:
    """Files of a job that was killed with the name of a whole one that are not whole.

    The last line of a log that is appended to may be cut short; whoever reads it leaves such a line out.
    """
    folder, found = job.out, []
    if job.at_once and job.facts(folder) not in ({}, expected):
        found.append("a part of what comes at once is there")
    for path in (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".tmp")):
        try:
            if path.suffix == ".pth":
                torch.load(path, map_location="cpu", weights_only=True)
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".jsonl":
                [json.loads(line) for line in lines(path)]
            elif path.name.endswith("_pred.csv"):
                [int(line) for line in lines(path)]
            elif path.suffix == ".csv" and path.name != "metadata.csv":
                whole = [t for t in path.read_text().splitlines(True) if t.endswith("\n")]
                if len({len(row) for row in csv.reader(whole)}) > 1:
                    raise ValueError("lines of several lengths")
            elif path.suffix == ".npy" and not path.name.startswith("."):
                np.load(path, mmap_mode="r")
        except Exception as fault:  # whatever it is, the file is not whole
            found.append(f"{path.relative_to(folder)}: {fault}")
    return found


def finish(job: Job) -> float:
    """Do a job without a kill; the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(job.command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{job.name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.monotonic() - began


def disturbed(
    job: Job, expected: dict[str, Any], lengths: dict[str, float], draws: random.Random, most: int
) -> tuple[int, list[str]]:
    """Kill a job at random times until it ends, or was killed often enough; the kills and what is wrong.

    A job that ends before any kill gives its length again: the machine was busier when that was taken.
    """
    wrong: list[str] = []
    began = time.monotonic()
    for kills in range(most):
        process = subprocess.Popen(
            job.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, said = process.communicate(timeout=draws.uniform(0.1, 0.9) * lengths[job.name])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            wrong += [f"after kill {kills + 1}: {each}" for each in broken(job, expected)]
            continue
        if not kills:
            lengths[job.name] = min(lengths[job.name], time.monotonic() - began)
        return kills, wrong + (
            [f"ended with {process.returncode}: {said[-500:]}"] if process.returncode else []
        )
    try:
        finish(job)
    except RuntimeError as fault:
        wrong.append(str(fault))
    return most, wrong


def storm(args: argparse.Namespace) -> dict[str, Any]:
    """Kills until there were enough, job after job; what was found."""
    folder, draws = args.folder.resolve(), random.Random(args.seed)
    begin(folder)
    with served(folder / "screen" / "rxrx1_v1.0") as source, tqdm(total=args.kills, unit="kill") as bar:
        prepare(folder, "calm")
        calm = jobs(folder, "calm", source)
        lengths = {job.name: finish(job) for job in calm}
        expected = {job.name: job.facts(job.out) for job in calm}
        found = {job.name: {"kills": 0, "ends": 0, "alike": 0, "wrong": []} for job in calm}
        result = {**circumstances(args), "lengths": lengths, "jobs": found}
        while bar.n < args.kills:
            prepare(folder, "storm")
            for job in jobs(folder, "storm", source):
                kills, wrong = disturbed(job, expected[job.name], lengths, draws, args.most)
                row: dict[str, Any] = found[job.name]
                row["kills"] += kills
                row["ends"] += 1
                row["alike"] += job.facts(job.out) == expected[job.name]
                row["wrong"] += wrong
                bar.update(kills)
            if args.json:  # a storm takes an hour; what was seen stays
                write_text(args.json, json.dumps(result, indent=2) + "\n")
    return result


def table(result: dict[str, Any]) -> str:
    """The counts as text."""
    rows = [f"{'':10}{'kills':>8}{'ends':>8}{'alike':>8}{'wrong':>8}"]
    for name, row in result["jobs"].items():
        rows.append(f"{name:10}{row['kills']:8}{row['ends']:8}{row['alike']:8}{len(row['wrong']):8}")
        rows += [f"  {each}" for each in row["wrong"][:5]]
    return "\n".join(rows)


def main() -> int:
    """The command; its exit code says whether anything was wrong."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="where screens and runs go")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--most", type=int, default=6, help="kills of one job before it may end")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    result = storm(args)
    bad = any(row["wrong"] or row["alike"] < row["ends"] for row in result["jobs"].values())
    return deliver(result, table(result), args.json) or int(bad)


if __name__ == "__main__":
    sys.exit(main())
