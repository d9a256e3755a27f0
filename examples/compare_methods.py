"""Every method, with and without test-time adaptation, on one small simulated screen, over several seeds.

    python examples/compare_methods.py comparison
    python examples/compare_methods.py --table_only --records leaderboard/records/methods_simulated.jsonl

Simulates the screen, trains every row in a process of its own, predicts with the best epoch of each, and
collects the records into one .jsonl file, from which alone the table is made. A second start goes on: what is
finished under the same settings is kept.

Backbone, epochs, optimiser and augmentation are the same for all, and so are the images of an epoch but for
LISA's partners and CS-ARM-BN's added controls; what a method needs besides stands in comparison_rows.py with
a reason. A bio-batch is an experiment: a plate of this screen shows
4 of the 16 treatments, one of RxRx1 277 of 1,108, and statistics of so few classes hide what tells them
apart.

Only the setting was tuned, by ERM and ABRA with seed 0, until images of known experiments were recognised
well and those of new ones badly: size of images, backbone, epochs and learning rate. After six epochs ERM
recognised a third of the known images by a ResNet-18 at a rate of 1e-3, and three in five by timm's
test_resnet at 3e-3, whose steps cost several times less. No method was tuned, and what is made for long
training is far from it here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comparison_rows import SETTINGS, table_rows

from abra_wilds import fit, run_config
from abra_wilds.config import RunConfig
from abra_wilds.data.simulate import MARKER, preset, simulate
from abra_wilds.engine.results import evaluate_saved
from abra_wilds.errors import InputError
from abra_wilds.files import write_text
from abra_wilds.predict import changed, predict_saved
from abra_wilds.records import RESULTS, Record, aligned, read_records
from abra_wilds.terminal import Parser, guarded

SPLITS = ("val", "id_test", "test")


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
        "n_epochs": args.n_epochs,
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
    yield folder / "fit", config.digest(), {}
    for flags in table_rows()[label].tta:
        adapted = changed(config, flags)
        yield folder / (adapted.eval.adaptation or "none"), adapted.digest(), flags


def finished(folder: Path, digest: str) -> list[Record]:
    """The best epoch's records in a folder, one a split; none unless all are there, of these settings."""
    found = {
        r.split: r
        for r in read_records(folder / RESULTS)
        if r.checkpoint == "best" and r.config_sha256 == digest
    }
    return [found[split] for split in SPLITS] if set(SPLITS) <= found.keys() else []


def run_one(label: str, seed: int, args: argparse.Namespace) -> int:
    """Train one run unless it is finished, and make its adaptations that are missing."""
    (own, digest, _), *adaptations = parts(label, seed, args)
    if not finished(own, digest):
        shutil.rmtree(own.parent, ignore_errors=True)
        fit(configuration(label, seed, args, evaluate_all_splits=False))
        evaluate_saved(configuration(label, seed, args, eval_only=True))
    for folder, digest, flags in adaptations:
        if not finished(folder, digest):
            shutil.rmtree(folder, ignore_errors=True)
            predict_saved(next(own.glob("*_epoch:best_model.pth")), SPLITS, folder, flags)
    return 0


def in_process(label: str, seed: int, args: argparse.Namespace) -> tuple[float, str]:
    """`run_one` in a process of its own, on one thread; the seconds it took, and why it failed or ""."""
    began = time.monotonic()
    command = [sys.executable, __file__, str(args.folder), "--run", label, str(seed)]
    command += [f"--{name}={getattr(args, name)}" for name in ("n_epochs", "device")]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    shown = run_folder(label, seed, args).with_suffix(".failed.txt")
    shown.unlink(missing_ok=True)
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
    if done.returncode:
        shown.parent.mkdir(parents=True, exist_ok=True)
        write_text(shown, done.stdout + done.stderr)
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return time.monotonic() - began, f"{last} ({shown})"
    return time.monotonic() - began, ""


def run_all(labels: Sequence[str], args: argparse.Namespace) -> list[str]:
    """Every run that is not finished, seed after seed; the failures."""
    wanted = [(label, seed) for seed in range(args.seeds) for label in labels]
    todo = [
        (label, seed)
        for label, seed in wanted
        if not all(finished(folder, digest) for folder, digest, _ in parts(label, seed, args))
    ]
    print(f"{len(wanted)} runs, {len(wanted) - len(todo)} finished before", flush=True)
    failures = []
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {pool.submit(in_process, label, seed, args): (label, seed) for label, seed in todo}
        for n, future in enumerate(as_completed(running), start=1):
            (label, seed), (seconds, failure) = running[future], future.result()
            state = f"FAILED: {failure}" if failure else f"{seconds:.0f} s"
            print(f"[{n}/{len(todo)}] {time.strftime('%H:%M:%S')} {label} seed {seed}: {state}", flush=True)
            if failure:
                failures.append(f"{label} seed {seed}: {failure}")
    return failures


def collect(labels: Sequence[str], args: argparse.Namespace) -> list[tuple[str, Record]]:
    """The records of everything that is finished, with the row each belongs to."""
    return [
        (label, record)
        for label in labels
        for seed in range(args.seeds)
        for folder, digest, _ in parts(label, seed, args)
        for record in finished(folder, digest)
    ]


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
        raise InputError(f"{path} holds no records of a comparison ({fault}); make it anew") from None
    if not all(record.simulated for _, record in found):
        raise InputError(f"{path} holds records of data that is not simulated; make it anew")
    return found


def entered(record: Record) -> str:
    """What entered a prediction beside the image and the training images."""
    c = record.consumed
    named = {"batch_statistics": "batch statistics", "test_images": "test images"}
    words = [text for name, text in named.items() if c[name]]
    return ", ".join([*words, *filter(None, [c["outside_data"]])]) or "-"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and sample standard deviation."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def table(rows: Sequence[tuple[str, Record]]) -> list[list[str]]:
    """The cells of the table, its head first."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for label, record in rows:
        groups.setdefault((label, record.tta or "none"), []).append(record)
    cells = [["row", "backbone", "TTA", *SPLITS, "seeds", "fwd/image", "seconds", "entered"]]
    for (label, tta), records in groups.items():
        of = {split: [r for r in records if r.split == split] for split in SPLITS}
        accs = [spread([100 * r.acc for r in of[split]]) for split in SPLITS]
        budgets = [r.consumed for r in of["test"]]
        forward = statistics.mean(c["forward_equivalents"] / c["images"] for c in budgets)
        seconds = statistics.mean(c["seconds"] for c in budgets)
        cost = [str(len(budgets)), f"{forward:.2f}", f"{seconds:.0f}"]
        backbone = records[0].backbone.removeprefix("timm:")
        cells.append([label, backbone, tta, *accs, *cost, entered(records[0])])
    return cells


def as_text(cells: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    return f"Accuracy in percent on simulated data\n{aligned(cells, left=len(cells[0]))}\n"


def as_markdown(cells: Sequence[Sequence[str]], rows: Sequence[tuple[str, Record]]) -> str:
    """The table as a page, with what it was made of."""
    records = [record for _, record in rows]
    sizes = {r.split: r.n for r in records}
    commits = ", ".join(sorted({r.commit[:7] + ("+changes" if "+" in r.commit else "") for r in records}))
    head, *body = ["| " + " | ".join(row) + " |" for row in cells]
    numbers = ", ".join(f"{split} {sizes[split]:,}" for split in SPLITS)
    return f"""# Methods and test-time adaptation on simulated data

Simulated: a small screen of `abra-wilds simulate`. It says nothing about biology, and a few epochs on it say
little about long training. Made by `examples/compare_methods.py`; what single methods needed, such as ABRA
without CutMix and AdvBayes with few steps of ascent, is in `examples/comparison_rows.py`.

Accuracy in percent of the epoch that is best on val: mean ± sample standard deviation over seeds. Images:
{numbers}. fwd/image: cost of training for each image drawn, in predictions of one image. seconds: of
training, on one CPU thread beside other work. entered: what a prediction read besides its image and the
training images. Where training itself adapts, TTA none is the control. Code: {commits}.

{head}
{"|---" * len(cells[0])}|
{chr(10).join(body)}
"""


def compare(args: argparse.Namespace) -> int:
    """Everything; returns the exit code."""
    if args.run:
        return run_one(args.run[0], int(args.run[1]), args)
    path = args.records or args.folder / "methods_simulated.jsonl"
    failures: list[str] = []
    if not args.table_only:
        labels = [label for label in table_rows() if not args.only or label in args.only]
        make_screen(args)
        failures = run_all(labels, args)
        lines = [json.dumps({"row": row, **asdict(record)}) + "\n" for row, record in collect(labels, args)]
        write_text(path, "".join(lines))
    rows = read_rows(path)
    cells = table(rows)
    print(as_text(cells))
    if rows:
        write_text(path.with_suffix(".md"), as_markdown(cells, rows))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def make_screen(args: argparse.Namespace) -> None:
    """Simulate the screen unless it is there.

    Raises:
        InputError: if another one is.
    """
    screen = preset("mini", image_size=48, replicates=args.replicates)
    marker = args.folder / "screen" / "rxrx1_v1.0" / MARKER
    if not marker.exists():
        simulate(args.folder / "screen", screen, workers=args.jobs, progress=True)
    there, wanted = json.loads(marker.read_text()), json.loads(json.dumps(asdict(screen)))
    if {name: there.get(name) for name in wanted} != wanted:
        raise InputError(f"{marker.parent} is another screen; give another folder")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("comparison"), help="screen and runs")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ... of each row")
    parser.add_argument("--n_epochs", type=int, default=6)
    parser.add_argument("--replicates", type=int, default=11, help="wells of each treatment on its plate")
    parser.add_argument("--only", nargs="+", choices=list(table_rows()), metavar="ROW", help="these rows")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, of one thread each")
    parser.add_argument("--device", default="cpu", help="index of a CUDA device, or cpu")
    parser.add_argument("--records", type=Path, help="the collection; its table is written beside it as .md")
    parser.add_argument("--table_only", action="store_true", help="make the table of --records again")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args: argparse.Namespace = parser.parse_args()
    return args


if __name__ == "__main__":
    sys.exit(guarded(lambda: compare(parse())))
