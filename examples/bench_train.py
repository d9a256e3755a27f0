"""Images per second of a training step alone, of its loader alone and of both together, for ERM and ABRA.

    python examples/bench_train.py --amp bf16 --channels_last --batch_size 128 --json bench_train.json

Simulates a screen at full image size, packs it, and trains as `run_expt.py` does: the same loader, copies,
augmentation, CutMix, step and meters. Both methods get the same batches of one plate each. "step" repeats one
batch that waits on the device as bytes; "loader" only draws batches; "both" is an epoch. The share of waiting
is the time an epoch spends before the next batch is there, as the host sees it, and "fed" the rate of both
over that of the step. Rounds of the two methods alternate and ratios are medians over them. Peak memory is
the allocator's on a GPU, and not measured on a CPU, where bench_step.py does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import circumstances, deliver, make_parser
from bench_data import FORMATS, SCREENS, make_screens
from tqdm import tqdm

from abra_wilds import run_config
from abra_wilds.config import RunConfig
from abra_wilds.data.prefetch import prefetched
from abra_wilds.engine.inputs import method_batch, training_batches
from abra_wilds.engine.logs import Meter
from abra_wilds.engine.schedule import make_optimizer
from abra_wilds.engine.setup import Setup, build_method, prepare
from abra_wilds.engine.speed import make_scaler, speed_up
from abra_wilds.engine.step import step
from abra_wilds.methods.base import Method
from abra_wilds.types import Batch, StepContext

METHODS = ("ERM", "ABRA")
SHOWN = 12  # operators of the profile


@dataclass
class Trainee:
    """A method in training, with everything an epoch of it needs."""

    config: RunConfig
    setup: Setup
    method: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    meter: Meter

    def batches(self) -> Iterator[tuple[Batch, Batch]]:
        """An epoch's batches on the host and on the device."""
        found = training_batches(self.setup.train_loader, self.config.data, None)
        return prefetched(found, self.setup.device)

    def step(self, batch: Batch) -> None:
        """From bytes on the device to moved weights; nothing waits for the device."""
        d = self.config.data
        draws, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
        batch = method_batch(batch, d, None, draws, rng)
        out = step(self.method, batch, self.optimizer, scaler=self.scaler)
        self.meter.update(out, batch)

    def finish(self) -> None:
        """Wait for the device."""
        self.meter.read()
        self.meter.reset()


def make_trainee(name: str, data_format: str, root: Path, args: argparse.Namespace) -> Trainee:
    """A method on plates of the screen, as the paper trains."""
    config = run_config(
        name,
        preset="paper",
        dataset=args.dataset,
        root_dir=str(root),
        data_format=data_format,
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
    setup = prepare(config)
    method = build_method(config, setup.info).to(setup.device).train()
    speed_up(method, config.speed)
    method.context = StepContext(lr=config.optim.lr, log=False)
    scaler = make_scaler(config.speed, setup.device)
    optimizer = make_optimizer(config.optim, method, scaler.is_enabled())
    meter = Meter(setup.info.n_groups, setup.device, by_group=True)
    return Trainee(config, setup, method, optimizer, scaler, meter)


def step_rate(trainee: Trainee, batch: Batch, steps: int) -> float:
    """Images per second of steps on one batch."""
    began = time.perf_counter()
    for _ in range(steps):
        trainee.step(batch)
    trainee.finish()
    return steps * len(batch) / (time.perf_counter() - began)


def epoch_rate(trainee: Trainee) -> tuple[float, float]:
    """Images per second of an epoch, and the share of its time that was spent waiting for batches."""
    n, waited, began = 0, 0.0, time.perf_counter()
    batches = trainee.batches()
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
    return n / seconds, waited / seconds


def loader_rate(trainee: Trainee) -> float:
    """Images per second of drawing an epoch's batches."""
    began = time.perf_counter()
    batches = training_batches(trainee.setup.train_loader, trainee.config.data, None)
    n = sum(len(batch) for batch in batches)
    return n / (time.perf_counter() - began)


def profile(trainee: Trainee, batch: Batch) -> list[dict[str, Any]]:
    """The operators that take the most time of a step of its own, with their share of all."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = trainee.setup.device.type == "cuda"
    activities += [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
    with torch.profiler.profile(activities=activities) as found:
        trainee.step(batch)
        trainee.finish()
    taken = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda e: -getattr(e, taken))
    total = sum(getattr(e, taken) for e in events)
    return [{"operator": e.key, "share": round(getattr(e, taken) / total, 4)} for e in events[:SHOWN]]


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of every column."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def measure_steps(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Step rates of the methods in alternating rounds, their peak memory and profiles."""
    trainees = {name: make_trainee(name, FORMATS[-1], root, args) for name in METHODS}
    batches, memory = {}, {}
    for name, trainee in trainees.items():
        batches[name] = next(trainee.batches())[1]
        memory[name] = peak(trainee, lambda t=trainee, b=batches[name]: step_rate(t, b, 3))
    rounds = []
    for i in tqdm(range(args.rounds), desc="steps", disable=None):
        order = METHODS[:: 1 if i % 2 == 0 else -1]
        rounds.append({n: step_rate(trainees[n], batches[n], args.steps) for n in order})
    found: dict[str, Any] = {
        "images_per_second": medians(rounds),
        "time_of_abra": statistics.median(r["ERM"] / r["ABRA"] for r in rounds),
        "peak_bytes": memory,
        "profile": {name: profile(trainees[name], batches[name]) for name in METHODS},
    }
    if memory["ERM"]:
        found["memory_of_abra"] = memory["ABRA"] / memory["ERM"]
    return found


def peak(trainee: Trainee, work: Callable[[], Any]) -> int | None:
    """The most bytes that a trainee's device held beyond others' during some work; None on a CPU."""
    device = trainee.setup.device
    if device.type != "cuda":
        work()
        return None
    own = sum(t.numel() * t.element_size() for t in [*trainee.method.parameters(), *trainee.method.buffers()])
    others = torch.cuda.memory_allocated(device) - own
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - others


def measure_epochs(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Rates of the loader alone and of whole epochs, from files and from the pack."""
    found: dict[str, Any] = {}
    for data_format in args.formats:
        for name in METHODS:
            trainee = make_trainee(name, data_format, root, args)
            epoch_rate(trainee)  # starts the workers
            alone = statistics.median(loader_rate(trainee) for _ in range(args.epochs))
            rates, waits = zip(*(epoch_rate(trainee) for _ in range(args.epochs)), strict=True)
            found.setdefault(data_format, {})[name] = {
                "loader": alone,
                "both": statistics.median(rates),
                "waiting": statistics.median(waits),
            }
    return found


def bench(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, with what it was measured on."""
    make_screens(root, args, [args.dataset])
    steps, epochs = measure_steps(root, args), measure_epochs(root, args)
    for by_method in epochs.values():
        for name, row in by_method.items():
            row["fed"] = row["both"] / steps["images_per_second"][name]
    on_gpu = args.device != "cpu" and torch.cuda.is_available()
    return {
        **circumstances(args),
        "data": "simulated",
        "machine": torch.cuda.get_device_name(int(args.device)) if on_gpu else "CPU",
        "step": steps,
        "epoch": epochs,
    }


def table(result: dict[str, Any]) -> str:
    """The rates as text."""
    step_rates = result["step"]["images_per_second"]
    lines = [f"{'images a second':16}{'':8}{'loader':>9}{'step':>9}{'both':>9}{'fed':>7}{'waiting':>9}"]
    for data_format, by_method in result["epoch"].items():
        for name, r in by_method.items():
            lines.append(
                f"{name:16}{data_format:8}{r['loader']:9.0f}{step_rates[name]:9.0f}{r['both']:9.0f}"
                f"{r['fed']:7.2f}{r['waiting']:9.2f}"
            )
    memory = result["step"].get("memory_of_abra")
    lines.append(
        f"a step of ABRA takes {result['step']['time_of_abra']:.3f} of ERM's time"
        + (f" and {memory:.3f} of its memory" if memory else "")
        + f" ({result['machine']})"
    )
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = make_parser(__doc__)
    parser.add_argument("--folder", type=Path, help="where the screen goes; unset: a temporary folder")
    parser.add_argument("--dataset", choices=SCREENS, default="rxrx1")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--target_resolution", nargs="+", type=int, default=[])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of the loader")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="that simulate and pack")
    parser.add_argument("--replicates", type=int, default=4, help="wells of each treatment on its plate")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="steps of a round")
    parser.add_argument("--epochs", type=int, default=3, help="epochs whose rates are averaged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="0", help="index of a CUDA device, or cpu")
    parser.add_argument("--amp", choices=("none", "bf16", "fp16"), default="none")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = bench(args.folder or Path(folder), args)
    return deliver(result, table(result), args.json)


if __name__ == "__main__":
    sys.exit(main())
