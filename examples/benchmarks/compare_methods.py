"""Every method, with and without test-time adaptation, on one simulated screen, over several seeds.

    python examples/benchmarks/compare_methods.py comparison --records FILE.jsonl
    python examples/benchmarks/compare_methods.py --table_only --records FILE.jsonl

Simulates the screen ("midi": RxRx1's experiments, 28 treatments of which a plate shows a quarter), trains
every row in a process of its own, predicts with its last epoch, and collects the records into one .jsonl
file, from which the tables are made. A second start keeps what is finished, or in the .jsonl file already.

Backbone, epochs, optimiser, augmentation, batch-norm statistics (re-estimated on all training images) and the
epoch that counts (the last) are the same for all. What a method needs besides stands in comparison_rows.py
with a reason. A bio-batch is an experiment, which holds all classes.

Only the screen's size, the backbone and the number of epochs were chosen, by ERM with seed 0: known
experiments should be recognised well and new ones less. No method was tuned.
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comparison_rows import SETTINGS, STEPS, table_rows

from abra_wilds import fit, run_config
from abra_wilds.config.run import RunConfig
from abra_wilds.engine.artifacts.folder import folder_of
from abra_wilds.engine.evaluation.saved import changed, predict_saved
from abra_wilds.errors import InputError
from abra_wilds.results.files import write_text
from abra_wilds.results.records import RESULTS, Record, aligned, read_records
from abra_wilds.results.significance import Paired, holm, mean_std, paired_t, spread
from abra_wilds.simulate import MARKER, preset, simulate
from abra_wilds.terminal import Parser, exit_cleanly

SPLITS = ("val", "id_test", "test")
VERDICTS = ("Significantly above their reference", "Significantly below it", "Not significant after Holm")
ADAPTED = "plate_bn_experiment"  # the adaptation that is compared: to whole experiments


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


def wanted(records: Iterable[Record], digest: str) -> list[Record]:
    """The last epoch's records of these settings, one a split; none unless all are there."""
    found = {r.split: r for r in records if r.checkpoint == "last" and r.config_sha256 == digest}
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
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
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
    """The records of everything that is finished, in this folder or before, with the row each belongs to."""
    before = read_rows(path) if path.exists() else []
    found = []
    for row in labels:
        known = [r for label, r in before if label == row]
        for seed in range(min(args.seeds, table_rows()[row].seeds)):
            for folder, digest, _ in parts(row, seed, args):
                here = wanted(read_records(folder / RESULTS), digest)
                found += [(row, record) for record in here or wanted(known, digest)]
    return found


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


Rows = Sequence[tuple[str, Record]]
Series = Mapping[int, float]  # seed -> percent


def by_prediction(rows: Rows) -> dict[tuple[str, str], dict[str, Series]]:
    """(row, adaptation) -> split -> seed -> percent."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for label, r in rows:
        found.setdefault((label, r.tta or "none"), {}).setdefault(r.split, {})[r.seed] = 100 * r.acc
    return found


def paired(a: Series, b: Series) -> Paired | None:
    """The test of a - b over the seeds that both have; None without any."""
    seeds = sorted(a.keys() & b.keys())
    return paired_t([a[s] for s in seeds], [b[s] for s in seeds]) if seeds else None


def difference(found: Paired | None) -> str:
    """A difference with its 95 % confidence interval."""
    if found is None:
        return "-"
    return f"{found.difference:+.1f}" + ("" if found.margin is None else f" ± {found.margin:.1f}")


def comparisons(rows: Rows) -> dict[tuple[str, str], tuple[str, Paired | None, float | None]]:
    """(row, adaptation) -> what it is compared with, the test on new experiments, and Holm's p over all.

    A prediction without adaptation is compared with an unadapted row, one adapted to whole experiments with
    an adapted one; other adaptations are not tested.
    """
    found, result = by_prediction(rows), {}
    for label, tta in found:
        row = table_rows()[label]
        adapted = tta.startswith(ADAPTED)
        reference = row.against_adapted if adapted else row.against
        if (adapted or tta == "none") and reference != label:
            other = found.get((reference, ADAPTED if adapted else "none"), {}).get("test", {})
            result[label, tta] = (reference, paired(found[label, tta].get("test", {}), other))
    return adjusted(result)


def adjusted(
    tests: Mapping[Any, tuple[str, Paired | None]],
) -> dict[Any, tuple[str, Paired | None, float | None]]:
    """Tests with Holm's p over all of them."""
    ps = {key: t.p for key, (_, t) in tests.items() if t is not None and t.p is not None}
    holms = dict(zip(ps, holm(list(ps.values())), strict=True))
    return {key: (name, t, holms.get(key)) for key, (name, t) in tests.items()}


def table(rows: Rows) -> list[list[str]]:
    """The cells of the table, its head first."""
    tests, found = comparisons(rows), by_prediction(rows)
    cells = [
        ["row", "TTA", *SPLITS, "seeds", "test - reference", "p (Holm)", "fwd/image", "seconds", "entered"]
    ]
    for (label, tta), of in found.items():
        records = [r for row, r in rows if (row, r.tta or "none", r.split) == (label, tta, "test")]
        accs = [spread(mean_std(list(of[split].values()))) if split in of else "-" for split in SPLITS]
        name, test, p = tests.get((label, tta), ("", None, None))
        compared = f"{difference(test)} ({name})" if name else "-"
        forward = statistics.mean(r.consumed["forward_equivalents"] / r.consumed["images"] for r in records)
        seconds = statistics.mean(r.consumed["seconds"] for r in records)
        told = "-" if p is None else f"{p:.2g}"
        cost = [f"{forward:.2f}", f"{seconds:.0f}", entered(records[0])]
        cells.append([label, tta, *accs, str(len(records)), compared, told, *cost])
    return cells


def steps_table(rows: Rows) -> list[list[str]]:
    """What each part between ERM and ABRA adds on new experiments, unadapted and adapted."""
    found = by_prediction(rows)

    def test(one: str, other: str, tta: str) -> Paired | None:
        return paired(*(found.get((row, tta), {}).get("test", {}) for row in (one, other)))

    tests = adjusted(
        {
            (part, tta): (before, test(row, before, tta))
            for part, row, before in STEPS
            for tta in ("none", ADAPTED)
        }
    )
    cells = [["added", "between", "none", "p (Holm)", ADAPTED, "p (Holm)"]]
    for part, row, before in STEPS:
        shown = []
        for tta in ("none", ADAPTED):
            _, t, p = tests[part, tta]
            shown += [difference(t), "-" if p is None else f"{p:.2g}"]
        cells.append([part, f"{row.split()[0]} - {before.split()[0]}", *shown])
    return cells


def verdict(rows: Rows) -> str:
    """Which differences are significant at 5 % after Holm, and which are not, in words."""
    found: dict[str, list[str]] = {title: [] for title in VERDICTS}
    for (label, tta), (reference, test, p) in comparisons(rows).items():
        name = f"{label} ({'unadapted' if tta == 'none' else tta}) - {reference}: {difference(test)}"
        open_ = test is None or p is None or p >= 0.05
        found[VERDICTS[2 if open_ else 0 if test and test.difference > 0 else 1]].append(name)
    return "\n\n".join(f"**{title}:** {'; '.join(names) or 'none'}." for title, names in found.items())


def as_text(cells: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    return f"Accuracy in percent on simulated data\n{aligned(cells, left=len(cells[0]))}\n"


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Cells as a table in Markdown."""
    head, *body = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([head, f"{'|---' * len(cells[0])}|", *body])


def as_page(rows: Rows) -> str:
    """The tables as a page, with what they were made of."""
    records = [record for _, record in rows]
    sizes = {r.split: r.n for r in records}
    commits = ", ".join(sorted({r.commit[:7] + ("+changes" if "+" in r.commit else "") for r in records}))
    numbers = ", ".join(f"{split} {sizes[split]:,}" for split in SPLITS)
    return f"""# Methods and test-time adaptation on simulated data

Simulated: the screen "midi" of `abra-wilds simulate`, with 33 experiments to train on, 4 in val and 14 in
test, and 32 classes. It says nothing about biology, and a few epochs of a small network say little about long
training of a large one. Made by `examples/benchmarks/compare_methods.py`; what single methods needed is in
`examples/benchmarks/comparison_rows.py`.

Accuracy in percent after the last epoch: mean ± sample standard deviation over seeds. Images: {numbers}. All
rows predict by batch-norm statistics that were re-estimated on all training images, or by the adaptation that
is named. test - reference: mean of the differences by seed on new experiments with its 95 % confidence
interval, and what it is compared with: ERM without adaptation and AdaBN with it, for the controls C1 to C7
(30 epochs, the others 12) C1 and C4. p (Holm): two-sided paired t-test, adjusted for all tests of the
table. fwd/image: cost of training for each image drawn, in predictions of one image. seconds: of training, on
one CPU thread beside other work. entered: what a prediction read besides its image and the training images.
Code: {commits}.

{markdown(table(rows))}

## Which differences can be told

{verdict(rows)}

## What each part between ERM and ABRA adds

Differences by seed on new experiments, without adaptation and adapted to whole experiments; p is adjusted for
the tests of this table.

{markdown(steps_table(rows))}
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
        failures = run_all(labels, args, path)
    rows = read_rows(path)
    if rows:
        print(as_text(table(rows)))
        write_text(path.with_suffix(".md"), as_page(rows))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def make_screen(args: argparse.Namespace) -> None:
    """Simulate the screen unless it is there.

    Raises:
        InputError: if another one is.
    """
    screen = preset(args.screen)
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
    parser.add_argument("--n_epochs", type=int, help="of every row; unset: those of comparison_rows.py")
    parser.add_argument("--screen", choices=("mini", "midi"), default="midi", help="preset of the simulator")
    parser.add_argument("--only", nargs="+", choices=list(table_rows()), metavar="ROW", help="these rows")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, of one thread each")
    parser.add_argument("--device", default="cpu", help="index of a CUDA device, or cpu")
    parser.add_argument("--records", type=Path, help="the collection; its table is written beside it as .md")
    parser.add_argument("--table_only", action="store_true", help="make the table of --records again")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args: argparse.Namespace = parser.parse_args()
    return args


if __name__ == "__main__":
    sys.exit(exit_cleanly(lambda: compare(parse())))
