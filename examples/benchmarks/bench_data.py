"""Images per second from disk to batch: image files against a pack, of 8-bit PNG and of 16-bit TIFF.

    python examples/benchmarks/bench_data.py --json bench_data.json

Simulates small screens at full image size and packs them: RxRx1-WILDS' 3 x 256 x 256 and RxRx1's
6 x 512 x 512 as PNG of 8 bits; and 6 x 1080 x 1080 of 16 bits, as LoadData with compressed TIFF and as a
Phenix exports them, uncompressed. "read" is one core reading single images: the random 256 x 256 windows that
the paper's augmentation crops where images are larger. "whole" is one core reading whole images, as
prediction does. "loader" is the training loader with its worker processes, batches included. Files and pack
read the same of the same images, one after the other in every round; ratios are medians over the rounds.
"waiting" is the share of the time of training ERM on what the loader brings before the next batch is there.
The page cache is warm, so this is the cost of decoding and copying, not of a disk.
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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from bench_common import circumstances, deliver, make_parser
from bench_train import fed_rate, make_trainee
from tqdm import tqdm

from abra_wilds import run_config
from abra_wilds.compat.imports import import_wilds
from abra_wilds.config.fields import path
from abra_wilds.config.files import screen_config
from abra_wilds.config.run import RunConfig
from abra_wilds.data.augment.transforms import crop_side
from abra_wilds.data.datasets.catalogue import data_info, load_dataset, make_grouper, split_subset
from abra_wilds.data.reading.crops import draw_windows
from abra_wilds.data.reading.images import read_image
from abra_wilds.data.reading.loaders import Loader, make_train_loader
from abra_wilds.data.reading.pack import pack
from abra_wilds.simulate import SimulationConfig, preset, simulate
from abra_wilds.simulate.formats import folder_of
from abra_wilds.terminal import exit_cleanly

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset

FORMATS = {"files": "png", "packed": "packed"}  # what is compared, and its --data_format


class Screen(NamedTuple):
    """A screen to simulate.

    Attributes:
        write, layout, side, depth: as of the simulator.
        experiments: of training, and where True one to validate and one to test.
        sites: of a well.
    """

    write: str
    layout: str
    side: int
    depth: int
    experiments: int = 2
    held_out: bool = True
    sites: int = 2

    def config(self, replicates: int) -> SimulationConfig:
        """What the simulator makes it of."""
        return preset(
            "mini",
            layout=self.layout,
            image_size=self.side,
            depth=self.depth,
            sites=self.sites,
            train_experiments=(self.experiments, 0, 0, 0),
            val_experiments=(int(self.held_out), 0, 0, 0),
            test_experiments=(int(self.held_out), 0, 0, 0),
            replicates=replicates,
        )


SCREENS = {
    "rxrx1": Screen("rxrx", "wilds", 256, 8),
    "rxrx1_6ch": Screen("rxrx", "rxrx1", 512, 8),
    "loaddata": Screen("loaddata", "rxrx1", 1080, 16, 1, False, 1),
    "phenix": Screen("phenix", "rxrx1", 1080, 16, 1, False, 1),
}


def opened(name: str, data_format: str, root: Path) -> WILDSDataset:
    """A data set from its files or its pack."""
    if SCREENS[name].write == "rxrx":
        return load_dataset(name, root, data_format=data_format)
    return load_dataset("screen", root, data_format=data_format, screen=screen_config(root / name))


def make_screens(root: Path, args: argparse.Namespace, names: Iterable[str]) -> None:
    """Simulate and pack screens, unless the folder has them."""
    for name in names:
        screen = SCREENS[name]
        config = screen.config(args.replicates)
        if not (root / folder_of(screen.write, config)).exists():
            simulate(root, config, write=screen.write, workers=args.cores, progress=True)
        pack(opened(name, "png", root), workers=args.cores)


def make_loader(name: str, data_format: str, root: Path, args: argparse.Namespace) -> Loader:
    """A training loader over plates."""
    dataset = opened(name, data_format, root)
    side = SCREENS[name].side
    return make_train_loader(
        split_subset(dataset, "train"),
        make_grouper(dataset, ("experiment", "plate")),
        train_loader="plate",
        batch_size=args.batch_size,
        side=crop_side("paper", side, side),
        num_workers=args.workers,
    )


def waiting(name: str, loader: Loader, root: Path, args: argparse.Namespace) -> float:
    """The share of the time of training ERM, as the paper does, that waits for batches of a loader."""
    own = SCREENS[name].write == "rxrx"
    where = (
        {"dataset": name, "root_dir": str(root)} if own else {"dataset": "screen", "screen": str(root / name)}
    )
    config: RunConfig = run_config(
        "ERM",
        preset="paper",
        **where,
        model=args.model,
        pretrained=False,
        target_resolution=tuple(args.target_resolution),
        batch_size=args.batch_size,
        device=["cpu"],
    )
    dataset = loader.rows.dataset
    info = data_info(dataset, split_subset(dataset, "train"), loader.grouper, loader.rows.shape[0])
    trainee = make_trainee(config, info, torch.device("cpu"))
    shares = [fed_rate(trainee, loader, args.workers)["waiting"] for _ in range(args.rounds + 1)]
    return statistics.median(shares[1:])


def reads(loader: Loader, seed: int, side: int | None) -> Callable[[], int]:
    """A function that reads every training image once, or its window of a side, and counts them."""
    H = loader.rows.shape[1]
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
        "ratio": statistics.median(rate["packed"] / rate["files"] for rate in found),
    }


def bench(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, with what it was measured on."""
    torch.set_num_threads(1)
    make_screens(root, args, args.datasets)
    measured: dict[str, Any] = {}
    for name in tqdm(args.datasets, desc="data sets", disable=None):
        loaders = {kind: make_loader(name, data_format, root, args) for kind, data_format in FORMATS.items()}
        shape = loaders["files"].rows.shape
        window = crop_side("paper", *shape[1:])
        jobs = {"whole": {kind: reads(loader, args.seed, None) for kind, loader in loaders.items()}}
        if window is not None:
            jobs["read"] = {kind: reads(loader, args.seed, window) for kind, loader in loaders.items()}
        jobs["loader"] = {kind: epochs(loader) for kind, loader in loaders.items()}
        measured[name] = {
            "shape": list(shape),
            "depth": SCREENS[name].depth,
            "images": len(loaders["files"].rows),
            "window": window,
            **{kind: compare(own, args.rounds) for kind, own in jobs.items()},
            "waiting": {kind: waiting(name, loader, root, args) for kind, loader in loaders.items()},
        }
    return {
        **circumstances(args),
        "data": "simulated",
        "images_per_second": measured,
    }


def table(result: dict[str, Any]) -> str:
    """The rates as text."""
    workers = result["settings"]["workers"]
    lines = [f"{'images a second':36}{'files':>10}{'pack':>10}{'ratio':>8}"]
    for name, found in result["images_per_second"].items():
        C, H, W = found["shape"]
        what = f"{name} {C}x{H}x{W}, {found['depth']} bits"
        labels = {
            "read": f"windows of {found['window']}, one core",
            "whole": "whole images, one core",
            "loader": f"loader, {workers} workers",
        }
        for kind, label in labels.items():
            if kind in found:
                r = found[kind]
                lines.append(f"{what:36}{r['files']:10.1f}{r['packed']:10.1f}{r['ratio']:8.1f}  {label}")
        waits = "".join(f"{100 * found['waiting'][kind]:8.1f} %" for kind in FORMATS)
        lines.append(f"{what:36}{waits}          of the time of training waits for images")
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
    parser.add_argument("--model", default="resnet18", help="of the training that waits for images")
    parser.add_argument("--target_resolution", type=int, nargs=2, default=[64, 64], metavar=("H", "W"))
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
