"""How long a plate takes from the files of a microscope to tables of sites and wells.

    python examples/benchmarks/bench_predict.py --json bench_predict.json

Writes a plate of random images once, one file a channel, and a model of random weights, whose predictions
cost what those of a trained one cost. Then `abra-wilds predict MODEL --screen PLATE` runs as a process of its
own, once for each --tta: its start, the table, reading, resizing, predicting and writing are all counted.
"""

from __future__ import annotations

import argparse
import os
import resource
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
from PIL import Image
from tqdm import tqdm

from abra_wilds.config.fields import path
from abra_wilds.engine.models.opened import described_model
from abra_wilds.engine.models.stored import Stored, predicting, write_stored
from abra_wilds.engine.setup import build_method
from abra_wilds.recipes.resolve import run_config
from abra_wilds.terminal import exit_cleanly
from abra_wilds.types import DataInfo

STAINS = ("DNA", "RNA", "ER", "AGP", "Mito", "Brightfield")


def wells(n: int) -> list[str]:
    """The first wells of a plate of 16 rows and 24 columns."""
    return [f"{row}{column:02}" for row in "ABCDEFGHIJKLMNOP" for column in range(1, 25)][:n]


def write_plate(folder: Path, args: argparse.Namespace) -> Path:
    """A plate of random images with its LoadData table; returns the table."""
    table = folder / "load_data.csv"
    if table.is_file():
        return table
    (folder / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(args.seed), []
    # One picture of 12 bits, shifted, so that writing takes no longer than the disk.
    picture = rng.integers(200, 4096, (args.side, args.side)).astype(np.uint16)
    for well in tqdm(wells(args.wells), desc="plate", unit="well", disable=None):
        for site in range(1, args.sites + 1):
            row = {"Metadata_Plate": "P1", "Metadata_Well": well, "Metadata_Site": str(site)}
            for stain in STAINS[: args.channels]:
                name = f"{well}_{site}_{stain}.{'tif' if args.depth == 16 else 'png'}"
                x = np.roll(picture, int(rng.integers(args.side)), axis=0)
                if args.depth == 16:
                    tifffile.imwrite(folder / "images" / name, x)
                else:
                    Image.fromarray((x >> 4).astype(np.uint8)).save(
                        folder / "images" / name, compress_level=1
                    )
                row |= {f"FileName_Orig{stain}": name, f"PathName_Orig{stain}": "images"}
            rows.append(row)
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


def write_model(folder: Path, args: argparse.Namespace) -> None:
    """A model of random weights for such images, as training leaves it."""
    config = run_config("ERM", model=args.model, pretrained=False, target_resolution=[args.size])
    channels, classes = STAINS[: args.channels], [f"class {k}" for k in range(args.classes)]
    method = build_method(config, DataInfo(len(classes), len(channels)), load=False)
    data = {
        "name": "random",
        "simulated": True,
        "digest": None,
        "classes": classes,
        "channels": list(channels),
    }
    data |= {"image_size": [args.side, args.side], "bit_depth": args.depth, "bio_batch_fields": ["plate"]}
    table = folder.with_name("plate") / "load_data.csv"
    about = described_model(config, {}, data, table, -1)
    write_stored(Stored(config, about, predicting(method)), folder)


def predicted(root: Path, tta: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds, core seconds and memory of one prediction of the plate."""
    out = root / f"out_{tta}"
    words = [sys.executable, "-m", "abra_wilds", "predict", root / "model", "--screen", root / "plate"]
    words += ["--out", out, "--tta", tta, "--device", "cpu", "--loader_kwargs", f"num_workers={args.workers}"]
    words += [] if tta == "none" else ["--tta_batch_size", args.tta_batch_size]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(list(map(str, words)), check=True, env=os.environ | {"OMP_NUM_THREADS": str(args.threads)})
    seconds = time.perf_counter() - began
    sites = len(pd.read_parquet(out / "sites.parquet"))
    if sites != args.wells * args.sites:
        raise RuntimeError(f"{sites} sites were predicted, and the plate has {args.wells * args.sites}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        # Of all its processes; on cores that others use too, seconds say more of them than of it.
        "core_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "sites": sites,
        "sites_per_second": sites / seconds,
        "largest_process": after.ru_maxrss * 1024,
    }


def bench(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, with what it was measured on."""
    write_plate(root / "plate", args)
    if not (root / "model").exists():
        write_model(root / "model", args)
    load = os.getloadavg()[0]
    found = {tta: predicted(root, tta, args) for tta in args.tta}
    return {**circumstances(args), "data": "random", "load_before": load, "predict": found}


def make_arguments() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = make_parser(__doc__)
    parser.add_argument("--folder", type=path, help="where plate and model are kept; unset: a temporary one")
    for name, default in (
        *(("wells", 384), ("sites", 2), ("channels", 5), ("side", 1080), ("depth", 16), ("size", 256)),
        *(("classes", 300), ("workers", 2), ("threads", 2), ("tta_batch_size", 128), ("seed", 0)),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--tta", nargs="+", default=["none", "plate_bn"])
    return parser


def main() -> int:
    """The command; returns its exit code."""
    args = make_arguments().parse_args()

    def body() -> int:
        with tempfile.TemporaryDirectory() as temporary:
            result = bench(args.folder or Path(temporary), args)
        lines = [
            f"{tta:12}{found['seconds']:8.0f} s {found['core_seconds']:8.0f} core seconds "
            f"{found['sites_per_second']:8.2f} sites a second"
            for tta, found in result["predict"].items()
        ]
        return deliver(result, "\n".join(lines), args.json)

    return exit_cleanly(body)


if __name__ == "__main__":
    sys.exit(main())
