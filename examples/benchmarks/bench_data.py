"""Images per second from disk to batch: image files against a pack, three and six channels.

    python examples/benchmarks/bench_data.py --json bench_data.json

Simulates two small screens at full image size, RxRx1-WILDS' 3 x 256 x 256 and RxRx1's 6 x 512 x 512, and
packs them. "read" is one core reading single images: of six channels the random 256 x 256 windows that the
paper's augmentation crops, of three whole images. "loader" is the training loader with its worker processes,
batches included. Files and pack read the same windows of the same images, one after the other in every round;
ratios are medians over the rounds. The page cache is warm, so this is the cost of decoding and copying, not
of a disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from bench_common import circumstances, deliver, make_parser
from tqdm import tqdm

from abra_wilds.compat.imports import import_wilds
from abra_wilds.config.fields import path
from abra_wilds.data.augment.transforms import crop_side
from abra_wilds.data.datasets.catalogue import load_dataset, make_grouper, split_subset
from abra_wilds.data.reading.crops import draw_windows
from abra_wilds.data.reading.images import read_image
from abra_wilds.data.reading.loaders import Loader, make_train_loader
from abra_wilds.data.reading.pack import pack
from abra_wilds.simulate import preset, simulate
from abra_wilds.simulate.formats import folder_of
from abra_wilds.terminal import exit_cleanly

FORMATS = ("png", "packed")
# Data set -> the simulator's layout and the side of its images.
SCREENS = {"rxrx1": ("wilds", 256), "rxrx1_6ch": ("rxrx1", 512)}


def make_screens(root: Path, args: argparse.Namespace, names: Iterable[str]) -> None:
    """Simulate and pack screens, unless the folder has them."""
    for name in names:
        layout, side = SCREENS[name]
        screen = preset(
            "mini",
            layout=layout,
            image_size=side,
            train_experiments=(2, 0, 0, 0),
            val_experiments=(1, 0, 0, 0),
            test_experiments=(1, 0, 0, 0),
            replicates=args.replicates,
        )
        if not (root / folder_of("rxrx", screen)).exists():
            simulate(root, screen, workers=args.cores, progress=True)
        pack(load_dataset(name, root, data_format="png"), workers=args.cores)


def make_loader(name: str, data_format: str, root: Path, args: argparse.Namespace) -> Loader:
    """A training loader over plates."""
    dataset = load_dataset(name, root, data_format=data_format)
    side = SCREENS[name][1]
    return make_train_loader(
        split_subset(dataset, "train"),
        make_grouper(dataset, ("experiment", "plate")),
        train_loader="plate",
        batch_size=args.batch_size,
        side=crop_side("paper", side, side),
        num_workers=args.workers,
    )


def reads(loader: Loader, seed: int) -> Callable[[], int]:
    """A function that reads every training image once, or its window, and counts them."""
    _, H, W = loader.rows.shape
    side = crop_side("paper", H, W)
    order = [row for batch in loader.sampler for row in batch.rows.tolist()]
    windows = [None] * len(order) if side is None else draw_windows(order, (seed, 0), H, side)
    indices = loader.rows.indices

    def read() -> int:
        for row, window in zip(order, windows, strict=True):
            read_image(loader.rows.dataset, int(indices[row]), window)
        return len(order)

    return read


def epochs(loader: Loader) -> Callable[[], int]:
    """A function that draws an epoch of batches, and counts their images."""
    return lambda: sum(map(len, loader))


def rates(jobs: dict[str, Callable[[], int]], rounds: int) -> Iterator[dict[str, float]]:
    """Images per second of every job, round after round, in alternating order."""
    for i in range(rounds):
        found = {}
        for name in list(jobs)[:: 1 if i % 2 == 0 else -1]:
            began = time.perf_counter()
            n = jobs[name]()
            found[name] = n / (time.perf_counter() - began)
        yield found


def compare(jobs: dict[str, Callable[[], int]], rounds: int) -> dict[str, Any]:
    """Medians of the rates, and of the pack's ratio to the files."""
    for job in jobs.values():
        job()  # files into the page cache, workers started
    found = list(rates(jobs, rounds))
    return {
        **{name: statistics.median(rate[name] for rate in found) for name in jobs},
        "ratio": statistics.median(rate["packed"] / rate["png"] for rate in found),
    }


def bench(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, with what it was measured on."""
    torch.set_num_threads(1)
    make_screens(root, args, args.datasets)
    measured: dict[str, Any] = {}
    for name in tqdm(args.datasets, desc="data sets", disable=None):
        loaders = {kind: make_loader(name, kind, root, args) for kind in FORMATS}
        n = len(loaders["png"].rows)
        read = compare({kind: reads(loader, args.seed) for kind, loader in loaders.items()}, args.rounds)
        whole = compare({kind: epochs(loader) for kind, loader in loaders.items()}, args.rounds)
        measured[name] = {
            "shape": list(loaders["png"].rows.shape),
            "images": n,
            "window": crop_side("paper", *loaders["png"].rows.shape[1:]),
            "read": read,
            "loader": whole,
        }
    return {
        **circumstances(args),
        "data": "simulated",
        "images_per_second": measured,
    }


def table(result: dict[str, Any]) -> str:
    """The rates as text."""
    workers = result["settings"]["workers"]
    lines = [f"{'images a second':34}{'files':>10}{'pack':>10}{'ratio':>8}"]
    for name, found in result["images_per_second"].items():
        C, H, W = found["shape"]
        what = f"{name} {C}x{H}x{W}" + (f", window {found['window']}" if found["window"] else "")
        for kind, label in (("read", "one core"), ("loader", f"loader, {workers} workers")):
            r = found[kind]
            lines.append(f"{what:34}{r['png']:10.0f}{r['packed']:10.0f}{r['ratio']:8.1f}  {label}")
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = make_parser(__doc__)
    parser.add_argument("--folder", type=path, help="where the screens go; unset: a temporary folder")
    parser.add_argument("--datasets", nargs="+", choices=SCREENS, default=list(SCREENS))
    parser.add_argument("--workers", type=int, default=2, help="processes of the loader")
    parser.add_argument(
        "--cores", type=int, default=os.cpu_count() or 1, help="processes that simulate and pack"
    )
    parser.add_argument("--batch_size", type=int, default=12)
    parser.add_argument("--replicates", type=int, default=2, help="wells of each treatment on its plate")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import_wilds()
    with tempfile.TemporaryDirectory() as folder:
        result = bench(args.folder or Path(folder), args)
    return deliver(result, table(result), args.json)


if __name__ == "__main__":
    sys.exit(exit_cleanly(main))
