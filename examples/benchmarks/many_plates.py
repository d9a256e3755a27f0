"""`predict --by_plate` over many plates by two processes that are killed again and again, and its memory.

    python examples/benchmarks/many_plates.py --json many_plates.json

Writes a screen of small plates and a model of random weights. One process predicts a few of the plates and
one all of them, undisturbed, and the largest memory of both is compared. Then two processes share all of
them; one of the two is killed at a random moment and started again, until there were enough kills. At the end
every plate must be there once, no finished plate made again, and all tables those of the undisturbed process.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from bench_common import circumstances, deliver, make_parser
from bench_predict import STAINS, wells, write_model
from tqdm import tqdm

from abra_wilds.config.fields import path
from abra_wilds.terminal import exit_cleanly

Command = subprocess.Popen[bytes]
TABLES = ("sites", "wells")


def write_screen(folder: Path, args: argparse.Namespace) -> Path:
    """Plates of random images and their LoadData table; returns the table."""
    (folder / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(args.seed), []
    for k in tqdm(range(args.plates), desc="screen", unit="plate", disable=None):
        for well in wells(args.wells):
            for site in map(str, range(1, args.sites + 1)):
                row = {"Metadata_Plate": f"P{k:04}", "Metadata_Well": well, "Metadata_Site": site}
                for stain in STAINS[: args.channels]:
                    name = f"P{k:04}_{well}_{site}_{stain}.tif"
                    x = rng.integers(200, 4096, (args.side, args.side)).astype(np.uint16)
                    tifffile.imwrite(folder / "images" / name, x)
                    row |= {f"FileName_Orig{stain}": name, f"PathName_Orig{stain}": "images"}
                rows.append(row)
    table = pd.DataFrame(rows)
    table.to_csv(folder / "load_data.csv", index=False)
    few = table["Metadata_Plate"].unique()[: args.few]
    table[table["Metadata_Plate"].isin(few)].to_csv(folder / "few.csv", index=False)
    return folder / "load_data.csv"


def begin(root: Path, table: str, out: str, args: argparse.Namespace) -> Command:
    """A process that predicts a table of the screen into a folder."""
    words = [
        sys.executable,
        "-m",
        "abra_wilds",
        "predict",
        root / "model",
        "--screen",
        root / "plate" / table,
    ]
    words += ["--out", root / out, "--by_plate", "--tta", args.tta, "--tta_min", 2, "--device", "cpu"]
    words += ["--loader_kwargs", "num_workers=0"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # as many in all processes, so that sums come out alike
    with open(root / f"{out}.log", "ab") as log:
        return subprocess.Popen(list(map(str, words)), stdout=log, stderr=log, env=env)


def undisturbed(root: Path, table: str, out: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds of a process that nobody kills, and the bytes of its largest memory."""
    began = time.perf_counter()
    process = begin(root, table, out, args)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"it failed: {(root / f'{out}.log').read_text()[-500:]}")
    return {"seconds": time.perf_counter() - began, "peak_bytes": usage.ru_maxrss * 1024}


def finished(root: Path, out: str) -> dict[str, tuple[int, int]]:
    """Name -> what changes when it is written again, of the plates that are finished."""
    found = [(file.name, file.stat()) for file in (root / out / "sites").glob("*.parquet")]
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found}


def storm(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Kill one of two processes again and again, and let them end; what became of the plates."""
    draws, seen = random.Random(args.seed), dict[str, tuple[int, int]]()
    kills, rewritten = list[int](), set[str]()
    step = max(1, args.plates // (2 * args.kills))

    def look() -> int:
        now = finished(root, "storm")
        rewritten.update(name for name in seen if now.get(name) != seen[name])
        seen.update(now)
        return len(now)

    both = [begin(root, "load_data.csv", "storm", args) for _ in range(2)]
    while len(kills) < args.kills and look() < args.plates:
        wanted = look() + draws.randint(0, step)
        while look() < wanted and any(process.poll() is None for process in both):
            time.sleep(0.01)
        time.sleep(draws.random() * args.longest)
        at = draws.randrange(2)
        both[at].kill()
        if both[at].wait() == -9:
            kills.append(look())
        both[at] = begin(root, "load_data.csv", "storm", args)
    codes = [process.wait() for process in both]
    look()
    return {"kills": len(kills), "finished_at_each": kills, "rewritten": sorted(rewritten), "codes": codes}


def alike(root: Path, args: argparse.Namespace) -> dict[str, bool]:
    """Whether every plate is there once, and tables equal those of the undisturbed process, bit for bit."""
    keys = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]
    calm, found = (
        {name: pd.read_parquet(root / out / name).sort_values(keys[:2], kind="stable") for name in TABLES}
        for out in ("calm", "storm")
    )
    sites = found["sites"]
    once = len(sites) == args.plates * args.wells * args.sites and not sites.duplicated(keys).any()
    same = {f"{name}_equal": calm[name].equals(found[name]) for name in TABLES}
    same["csv_equal"] = all(
        (root / "calm" / f"{name}.csv").read_bytes() == (root / "storm" / f"{name}.csv").read_bytes()
        for name in TABLES
    )
    left = [path.name for path in (root / "storm").rglob("*.tmp")]
    return {"every_site_once": bool(once), **same, "nothing_half_written": not left}


def bench(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, with what it was measured on."""
    write_screen(root / "plate", args)
    write_model(root / "model", args)
    few, all_ = (undisturbed(root, *of, args) for of in (("few.csv", "few"), ("load_data.csv", "calm")))
    memory = all_["peak_bytes"] / few["peak_bytes"]
    result = {**circumstances(args), "data": "random", "few": few, "all": all_, "memory_ratio": memory}
    return {**result, "storm": storm(root, args), "checks": alike(root, args)}


def wrong(result: dict[str, Any]) -> list[str]:
    """What is not as it must be."""
    found = [name for name, good in result["checks"].items() if not good]
    found += ["rewritten"] if result["storm"]["rewritten"] else []
    found += ["codes"] if any(result["storm"]["codes"]) else []
    found += ["kills"] if result["storm"]["kills"] < result["settings"]["kills"] else []
    return found + (["memory"] if result["memory_ratio"] > 1.05 else [])


def table_of(result: dict[str, Any]) -> str:
    """The result as text."""
    s = result["settings"]
    peaks = [result[name]["peak_bytes"] / 2**20 for name in ("few", "all")]
    return "\n".join(
        [
            f"{s['few']} plates: {peaks[0]:.0f} MiB; {s['plates']} plates: {peaks[1]:.0f} MiB "
            f"({result['memory_ratio']:.3f}), {result['all']['seconds']:.0f} s",
            f"{result['storm']['kills']} kills, with {result['storm']['finished_at_each']} plates finished",
            f"wrong: {', '.join(wrong(result)) or 'nothing'}",
        ]
    )


def make_arguments() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(__doc__)
    parser.add_argument("--folder", type=path, help="where everything goes; unset: a temporary one")
    for name, default in (
        *(("plates", 200), ("few", 20), ("kills", 10), ("wells", 4), ("sites", 2), ("channels", 2)),
        *(("side", 32), ("size", 32), ("depth", 16), ("classes", 10), ("seed", 0)),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--tta", default="plate_bn")
    parser.add_argument("--longest", type=float, default=0.3, help="seconds that a kill waits at most")
    return parser


def main() -> int:
    """The command; its exit code says whether anything was wrong."""
    args = make_arguments().parse_args()

    def body() -> int:
        with tempfile.TemporaryDirectory() as temporary:
            result = bench(args.folder or Path(temporary), args)
        return deliver(result, table_of(result), args.json) or bool(wrong(result))

    return exit_cleanly(body)


if __name__ == "__main__":
    sys.exit(main())
