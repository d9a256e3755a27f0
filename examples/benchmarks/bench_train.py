"""Images per second of a training step alone, of its loader alone and of both together, for ERM and ABRA.

    python examples/benchmarks/bench_train.py --amp bf16 --channels_last --json bench_train.json

Trains as `run_expt.py` does, with the same loader, copies, augmentation, CutMix, step and meters, on packs of
random bytes in RxRx1-WILDS' 3 x 256 x 256 and RxRx1's 6 x 512 x 512, which lie in the page cache. Both
methods get the same batches of one plate each. "step" repeats one batch that waits on the device as bytes;
"loader" only draws batches; "both" draws and steps, with one batch for each worker before its clock starts. A
round times all three of both methods, every other one backwards, workers rest after each, and ratios are
those of medians over rounds: "fed" is the rate of both over that of the step. "waiting" is the share of the
time of both before the next batch is there, as the host sees it, which runs ahead of a GPU. Peak memory is
the allocator's on a GPU, and not measured on a CPU, where bench_step.py does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import circumstances, deliver, make_parser, most_of, profile
from bench_random import SHAPES, check_random, make_loader, write_random
from tqdm import tqdm

from abra_wilds import run_config
from abra_wilds.config.fields import path
from abra_wilds.config.run import RunConfig
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.data.reading.prefetch import prefetched
from abra_wilds.engine.artifacts.logs import Meter
from abra_wilds.engine.device import pick_device
from abra_wilds.engine.inputs import method_batch
from abra_wilds.engine.precision import check_speed, configure_precision, make_scaler
from abra_wilds.engine.schedule import make_optimizer
from abra_wilds.engine.setup import build_method
from abra_wilds.engine.step import step
from abra_wilds.methods.base import Method
from abra_wilds.pools import usable_cores
from abra_wilds.terminal import exit_cleanly
from abra_wilds.types import Batch, DataInfo, StepContext

METHODS = ("ERM", "ABRA")
MOST_CORES = 16  # of a machine that may show more than it lends


@dataclass
class Trainee:
    """A method in training, with everything a step of it needs."""

    config: RunConfig
    device: torch.device
    method: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    meter: Meter

    def step(self, batch: Batch) -> None:
        """From bytes on the device to moved weights; nothing waits for the device."""
        draws, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
        batch = method_batch(batch, self.config.data, None, draws, rng)
        out = step(self.method, batch, self.optimizer, scaler=self.scaler)
        self.meter.update(out, batch)

    def finish(self) -> None:
        """Wait for the device."""
        self.meter.read()
        self.meter.reset()

    def own_bytes(self) -> int:
        """What it holds on the device between steps."""
        state = [t for s in self.optimizer.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
        held = [*self.method.parameters(), *self.method.buffers(), *state]
        return sum(t.numel() * t.element_size() for t in held if t.device == self.device)


def make_config(name: str, dataset: str, root: Path, args: argparse.Namespace) -> RunConfig:
    """What the paper trains a method with, on plates."""
    config: RunConfig = run_config(
        name,
        preset="paper",
        dataset=dataset,
        root_dir=str(root),
        data_format="packed",
        split_scheme="official",
        train_loader="plate",
        groupby_fields=("experiment", "plate"),
        mix="cutmix",
        batch_size=args.batch_size,
        target_resolution=tuple(args.target_resolution),
        model=args.model,
        pretrained=False,
        loader_kwargs={"num_workers": args.workers},
        seed=args.seed,
        device=[args.device],
        amp=args.amp,
        channels_last=args.channels_last,
        compile=args.compile,
    )
    return config


def make_trainee(config: RunConfig, info: DataInfo, device: torch.device) -> Trainee:
    """A method on its device, as `fit` makes one."""
    method = build_method(config, info).to(device).train()
    configure_precision(method, config.speed)
    method.context = StepContext(lr=config.optim.lr, log=False)
    scaler = make_scaler(config.speed, device)
    optimizer = make_optimizer(config.optim, method, scaler.is_enabled())
    return Trainee(config, device, method, optimizer, scaler, Meter(info.n_groups, device, by_group=True))


def step_rate(trainee: Trainee, batch: Batch, steps: int) -> dict[str, float]:
    """Images per second of steps on one batch."""
    began = time.perf_counter()
    for _ in range(steps):
        trainee.step(batch)
    trainee.finish()
    return {"step": steps * len(batch) / (time.perf_counter() - began)}


def fed_rate(trainee: Trainee, loader: Loader, ahead: int) -> dict[str, float]:
    """Images per second of steps on what the loader brings, and the share of time that waits for batches."""
    batches = prefetched(loader, trainee.device)
    for _, batch in islice(batches, ahead):
        trainee.step(batch)
    trainee.finish()
    n, waited, began = 0, 0.0, time.perf_counter()
    while True:
        asked = time.perf_counter()
        found = next(batches, None)
        waited += time.perf_counter() - asked
        if found is None:
            break
        trainee.step(found[1])
        n += len(found[1])
    trainee.finish()
    seconds = time.perf_counter() - began
    return {"both": n / seconds, "waiting": waited / seconds}


def loader_rate(loader: Loader, ahead: int) -> dict[str, float]:
    """Images per second of drawing batches."""
    batches = iter(loader)
    for _ in islice(batches, ahead):
        pass
    began = time.perf_counter()
    n = sum(len(batch) for batch in batches)
    return {"loader": n / (time.perf_counter() - began)}


def peak(trainee: Trainee, work: Callable[[], Any]) -> int | None:
    """The most bytes that a trainee's device held beyond others' during some work; None on a CPU."""
    device = trainee.device
    if device.type != "cuda":
        return None
    others = torch.cuda.memory_allocated(device) - trainee.own_bytes()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - others


def ratios(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds of each method, and their ratios."""
    rates = {n: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for n, rows in rounds.items()}
    for row in rates.values():
        row["fed"] = row["both"] / row["step"]
    return {"methods": rates, "time_of_abra": rates["ERM"]["step"] / rates["ABRA"]["step"]}


def measure(dataset: str, root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Rates of both methods on a data set in rounds, their peak memory and profiles."""
    configs = {name: make_config(name, dataset, root, args) for name in METHODS}
    device = pick_device(args.device)
    check_speed(configs["ERM"].speed, device)
    loader, info, ahead = make_loader(configs["ERM"], device, args.steps)
    trainees = {name: make_trainee(config, info, device) for name, config in configs.items()}
    batch = next(iter(prefetched(loader, device)))[1]
    for trainee in trainees.values():  # kernels are chosen and workers started
        step_rate(trainee, batch, 3)
        fed_rate(trainee, loader, ahead)
    memory = {name: peak(t, partial(step_rate, t, batch, 3)) for name, t in trainees.items()}
    # By what they time and then by method: what is compared lies close together.
    jobs = [(name, partial(step_rate, t, batch, args.steps)) for name, t in trainees.items()]
    jobs += [(name, partial(fed_rate, t, loader, ahead)) for name, t in trainees.items()]
    jobs += [(name, partial(loader_rate, loader, ahead)) for name in trainees]
    rounds: dict[str, list[dict[str, float]]] = {name: [{} for _ in range(args.rounds)] for name in METHODS}
    for i in tqdm(range(args.rounds), desc=dataset, disable=None):
        loader.set_epoch(i)
        for name, job in jobs[:: 1 if i % 2 == 0 else -1]:
            rounds[name][i] |= job()
    found = {"shape": list(loader.rows.shape), "images": len(loader.rows), **ratios(rounds)}
    if memory["ERM"] and memory["ABRA"]:
        found |= {"peak_bytes": memory, "memory_of_abra": memory["ABRA"] / memory["ERM"]}
    found["profile"] = {n: profile(partial(step_rate, t, batch, 1), device) for n, t in trainees.items()}
    return found | {"rounds": rounds}


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, with what it was measured on."""
    folder = args.folder or Path(tempfile.gettempdir())
    plates = {name: check_random(name, folder, args) for name in args.datasets}
    found = {}
    for name in args.datasets:
        with tempfile.TemporaryDirectory(dir=folder) as root:
            write_random(Path(root), name, plates=plates[name], wells=args.wells, cores=args.cores)
            found[name] = measure(name, Path(root), args)
    device = pick_device(args.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {**circumstances(args), "images": "random bytes", "machine": machine, "datasets": found}


def table(result: dict[str, Any]) -> str:
    """The rates as text."""
    lines = []
    for dataset, found in result["datasets"].items():
        what = f"{dataset} {'x'.join(map(str, found['shape']))}, images a second"
        lines.append(f"{what:44}{'loader':>8}{'step':>8}{'both':>8}{'fed':>7}{'waiting':>9}")
        for name, r in found["methods"].items():
            rates = "".join(f"{r[kind]:8.0f}" for kind in ("loader", "step", "both"))
            lines.append(f"{name:44}{rates}{r['fed']:7.3f}{r['waiting']:9.3f}")
        memory = f" and {found['memory_of_abra']:.3f} of its memory" if "memory_of_abra" in found else ""
        lines.append(
            f"a step of ABRA takes {found['time_of_abra']:.3f} of ERM's time{memory} ({result['machine']})"
        )
        lines.append(f"most of it: {most_of(found['profile']['ABRA'])}")
    return "\n".join(lines)


def make_arguments() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = make_parser(__doc__)
    parser.add_argument("--folder", type=path, help="on whose disk images lie meanwhile; unset: /tmp")
    parser.add_argument("--datasets", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of images of a data set, at most")
    parser.add_argument("--wells", type=int, default=256, help="of a plate, one image each")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--target_resolution", nargs="+", type=int, default=[])
    cores = min(usable_cores(), MOST_CORES)
    parser.add_argument("--workers", type=int, default=cores, help="processes of the loader")
    parser.add_argument("--cores", type=int, default=cores, help="processes that write the images")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of a round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="0", help="index of a CUDA device, or cpu")
    parser.add_argument("--amp", choices=("none", "bf16", "fp16"), default="none")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    return parser


def main() -> int:
    """The command."""
    args = make_arguments().parse_args()
    result = bench(args)
    return deliver(result, table(result), args.json)


if __name__ == "__main__":
    sys.exit(exit_cleanly(main, "no figure was written"))
