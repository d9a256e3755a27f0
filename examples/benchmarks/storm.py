"""Random kills of training, packing and sweeping: what is left, and whether the same command ends it alike.

    python examples/benchmarks/storm.py FOLDER --kills 200 --json leaderboard/records/storm.json

Each job is first done without a kill. Then it is started, killed (SIGKILL, its processes too) after a random
time of up to its whole length, checked and started again, until it ends by itself; what it left must be what
the undisturbed job left, byte for byte but for times. After every kill each file that looks whole must be:
checkpoints load, csv lines have their columns, JSON its end. The data are simulated.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import circumstances, deliver, make_parser
from tqdm import tqdm

from abra_wilds.results.files import write_text
from abra_wilds.simulate import SimulationConfig, simulate

SCREEN = SimulationConfig(
    classes=12,
    image_size=32,
    replicates=1,
    train_experiments=(1, 1, 0, 0),
    val_experiments=(1, 0, 0, 0),
    test_experiments=(0, 1, 0, 0),
)
RUN = "--model resnet18 --pretrained false --batch_size 8 --warmup_epochs 0 --device cpu --preset wilds"
EXAMPLES = Path(__file__).resolve().parents[1]
# What differs between two runs of one command: times, checksums of files that hold them, and commits.
TIMES = ("seconds", "wall_s", "commit", "checkpoint_sha256")


@dataclass(frozen=True)
class Job:
    """A command, the folder that it fills, and what of the folder must come out alike."""

    name: str
    command: list[str]
    out: Path
    facts: Callable[[Path], dict[str, Any]]


def jobs(folder: Path, place: str) -> list[Job]:
    """Every job, working in folder / place."""
    here, root = folder / place, folder / "screen"
    reading = "--loader_kwargs num_workers=0"
    train = [sys.executable, str(EXAMPLES / "run_expt.py"), "--dataset", "rxrx1", "--root_dir", str(root)]
    train += ["--n_epochs", "3", "--resume", *RUN.split(), *reading.split()]
    own = here / "screen"  # packing writes beside the images, so each has its own
    spec = folder / "storm.yaml"
    sweep = [sys.executable, str(EXAMPLES.parent / "leaderboard" / "sweep.py"), str(spec), "--devices", "cpu"]
    return [
        *(
            Job(name, [*train, "--algorithm", name, "--log_dir", str(here / name)], here / name, run_facts)
            for name in ("ERM", "ABRA")
        ),
        Job(
            "pack", [sys.executable, "-m", "abra_wilds", "pack", str(own), "--workers", "1"], own, pack_facts
        ),
        Job(
            "sweep",
            [*sweep, "--out", str(here / "sweep"), "--root_dir", str(root)],
            here / "sweep",
            tree_facts,
        ),
    ]


def prepare(folder: Path, place: str) -> None:
    """What the jobs of a place need."""
    shutil.rmtree(folder / place, ignore_errors=True)
    (folder / place).mkdir(parents=True)
    shutil.copytree(folder / "screen", folder / place / "screen")


def run_facts(folder: Path) -> dict[str, Any]:
    """Of a run: its weights, predictions, csv files and records, without times."""
    facts: dict[str, Any] = {}
    for path in sorted(folder.glob("*_model.pth")):
        state = torch.load(path, map_location="cpu", weights_only=True)
        facts[path.name] = digest(state)
    for path in sorted(folder.glob("*.csv")):
        facts[path.name] = path.read_text()
    facts["results"] = [without_times(json.loads(line)) for line in lines(folder / "results.jsonl")]
    return facts


def pack_facts(folder: Path) -> dict[str, Any]:
    """Of a pack: every array."""
    packs = sorted(path for path in folder.rglob("*.npy") if not path.name.startswith("."))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in packs}


def tree_facts(folder: Path) -> dict[str, Any]:
    """Of a sweep: the facts of every run and adaptation."""
    return {
        str(p.parent.relative_to(folder)): run_facts(p.parent) for p in sorted(folder.rglob("results.jsonl"))
    }


def without_times(record: Any) -> Any:
    """A record without what no two runs share, inside it too."""
    if not isinstance(record, dict):
        return record
    return {k: without_times(v) for k, v in record.items() if k not in TIMES}


def digest(value: Any) -> str:
    """Of a nest of mappings, sequences, tensors and numbers, without times."""
    found = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, dict):
            for key, each in item.items():
                if key not in TIMES:
                    found.update(str(key).encode())
                    add(each)
        elif isinstance(item, list | tuple):
            for each in item:
                add(each)
        elif isinstance(item, torch.Tensor):
            found.update(item.numpy().tobytes())
        else:
            found.update(repr(item).encode())

    add(value)
    return found.hexdigest()


def lines(path: Path) -> Iterator[str]:
    """Lines of a text file; none where there is no file."""
    return iter(path.read_text(encoding="utf-8").splitlines() if path.exists() else ())


def broken(folder: Path) -> list[str]:
    """Files with the name of a whole one that are not whole.

    The last line of a log that is appended to may be cut short; whoever reads it leaves such a line out.
    """
    found = []
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


def disturbed(job: Job, length: float, draws: random.Random, most: int) -> tuple[int, list[str]]:
    """Kill a job at random times until it ends, or was killed often enough; the kills and what is wrong."""
    wrong: list[str] = []
    for kills in range(most):
        process = subprocess.Popen(
            job.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, said = process.communicate(timeout=draws.uniform(0.1, 0.9) * length)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            wrong += [f"after kill {kills + 1}: {each}" for each in broken(job.out)]
            continue
        return kills, wrong + (
            [f"ended with {process.returncode}: {said[-500:]}"] if process.returncode else []
        )
    finish(job)
    return most, wrong


def storm(args: argparse.Namespace) -> dict[str, Any]:
    """Kills until there were enough, job after job; what was found."""
    folder, draws = args.folder.resolve(), random.Random(args.seed)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "screen").exists():
        simulate(folder / "screen", SCREEN, workers=2)
    (folder / "storm.yaml").write_text(SPEC)
    prepare(folder, "calm")
    calm = jobs(folder, "calm")
    lengths = {job.name: finish(job) for job in calm}
    result = {**circumstances(args), "lengths": lengths}
    expected = {job.name: job.facts(job.out) for job in calm}
    found = {job.name: {"kills": 0, "ends": 0, "alike": 0, "wrong": []} for job in calm}
    with tqdm(total=args.kills, unit="kill") as bar:
        while bar.n < args.kills:
            prepare(folder, "storm")
            for job in jobs(folder, "storm"):
                kills, wrong = disturbed(job, lengths[job.name], draws, args.most)
                row: dict[str, Any] = found[job.name]
                row["kills"] += kills
                row["ends"] += 1
                row["alike"] += job.facts(job.out) == expected[job.name]
                row["wrong"] += wrong
                bar.update(kills)
            if args.json:  # a storm takes an hour; what was seen stays
                write_text(args.json, json.dumps({**result, "jobs": found}, indent=2) + "\n")
    return {**result, "jobs": found}


SPEC = """name: storm
seeds: [0]
reference: ERM
settings: {dataset: rxrx1, preset: wilds, model: resnet18, pretrained: false, batch_size: 8, n_epochs: 2,
  warmup_epochs: 0, loader_kwargs: {num_workers: 0}}
rows:
  - {label: ERM, algorithm: ERM, tta: [{tta: plate_bn, tta_group: experiment, tta_min: 2}]}
"""


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
    parser.add_argument("--most", type=int, default=12, help="kills of one job before it may end")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    result = storm(args)
    bad = any(row["wrong"] or row["alike"] < row["ends"] for row in result["jobs"].values())
    return deliver(result, table(result), args.json) or int(bad)


if __name__ == "__main__":
    sys.exit(main())
