"""Time, FLOPs and peak memory of a training step of every method, as ratios to ERM of the same run.

    python examples/bench_step.py --json bench.json

Every method trains the same backbone on the same batch. Round after round each takes a step beside one of
ERM, in alternating order, and ratios are medians over these pairs, so that a machine that slows down slows
both. "ABRA two forwards" is Algorithm 1 as written. FLOPs are counted by operator; peak memory on a GPU is
the allocator's, on a CPU the growth of the resident set in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from tqdm import tqdm

from abra_wilds import METHODS, get_method
from abra_wilds.data.loaders import groups_of
from abra_wilds.engine.step import step
from abra_wilds.files import write_text
from abra_wilds.methods.abra_config import ABRAConfig
from abra_wilds.methods.base import Method
from abra_wilds.nets.backbones import build_net
from abra_wilds.provenance import commit, versions
from abra_wilds.types import Batch, DataInfo, StepContext, Target

LITERAL = "ABRA two forwards"
RATE = 1e-3
SHARED = ("model", "batch_size", "image_size", "channels", "seed", "device")


class FlopCount(TorchDispatchMode):
    """Adds up the FLOPs of the operators that torch has a formula for, nested autograd included."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@dataclass
class Trainee:
    """A method with what one step of it needs."""

    method: Method
    optimizer: torch.optim.Optimizer
    batch: Batch

    def step(self) -> float:
        """One step; its loss, read, so that the device has finished."""
        return step(self.method, self.batch, self.optimizer).loss.item()


def make_trainee(name: str, args: argparse.Namespace, device: torch.device) -> Trainee:
    """A method by name on one fixed batch, of as many bio-batches as its plan asks for."""
    torch.manual_seed(args.seed)
    info = DataInfo(n_classes=1139, in_channels=args.channels, n_groups=255, train_groups=tuple(range(132)))
    cls = get_method("ABRA" if name == LITERAL else name)
    cfg = ABRAConfig(two_forward=True) if name == LITERAL else cls.Config()
    method = cls(build_net(args.model, args.channels, pretrained=False), info, cfg).to(device).train()
    method.context = StepContext(lr=RATE, log=False)
    n_groups = 1 if cls.plan.train_loader == "plate" else max(2, args.batch_size // 8)
    g = torch.arange(args.batch_size) % n_groups
    x = torch.randn(args.batch_size, args.channels, args.image_size, args.image_size)
    y = torch.randint(info.n_classes, (args.batch_size,))
    batch = Batch(x, Target(y), g, g[:, None], torch.arange(args.batch_size), groups_of(g)).to(device)
    return Trainee(method, torch.optim.Adam(method.parameters(), RATE), batch)


def peak_memory(name: str, args: argparse.Namespace) -> int:
    """Bytes that two steps of a method need, measured in a process of its own."""
    flags = [f"--{k}={getattr(args, k)}" for k in SHARED]
    command = [sys.executable, __file__, "--memory_of", name, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def measure_memory(name: str, args: argparse.Namespace, device: torch.device) -> int:
    """Peak of two steps: allocated on a GPU, growth of the resident set on a CPU."""
    if device.type == "cuda":
        trainee = make_trainee(name, args, device)
        for _ in range(2):
            trainee.step()
        return torch.cuda.max_memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew at what is resident now
    before = resident_peak()
    trainee = make_trainee(name, args, device)
    for _ in range(2):
        trainee.step()
    return resident_peak() - before


def resident_peak() -> int:
    """Peak of the resident set in bytes, as Linux counts it."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def count_flops(name: str, args: argparse.Namespace) -> int:
    """FLOPs of one step, counted on tensors without storage."""
    trainee = make_trainee(name, args, torch.device("meta"))
    with FlopCount() as count:
        step(trainee.method, trainee.batch, trainee.optimizer)
    return count.total


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and interquartile range."""
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": median, "iqr": high - low}


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, with what it was measured on."""
    device = torch.device(args.device)
    names = ["ERM", *(n for n in METHODS if n != "ERM" and (args.only is None or n in args.only)), LITERAL]
    trainees = {name: make_trainee(name, args, device) for name in names}
    for name in tqdm(names, desc="warm-up", disable=None):
        trainees[name].step()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    relative: dict[str, list[float]] = {"ERM": [1.0, 1.0], **{name: [] for name in names if name != "ERM"}}
    losses: dict[str, float] = {}
    for i in tqdm(range(args.rounds), desc="rounds", disable=None):
        for name in names[1:]:
            pair = {}
            for each in ("ERM", name) if i % 2 == 0 else (name, "ERM"):
                began = time.perf_counter()
                losses[each] = trainees[each].step()
                pair[each] = time.perf_counter() - began
                seconds[each].append(pair[each])
            relative[name].append(pair[name] / pair["ERM"])
    trainees.clear()
    flops = {name: count_flops(name, args) for name in tqdm(names, desc="FLOPs", disable=None)}
    memory = {name: peak_memory(name, args) for name in tqdm(names, desc="memory", disable=None)}
    methods, ratios = {}, {}
    for name in names:
        methods[name] = {
            "seconds": quartiles(seconds[name]),
            "flops": flops[name],
            "memory": memory[name],
            "loss": losses[name],
        }
        ratios[name] = {
            "flops": flops[name] / flops["ERM"],
            "time": quartiles(relative[name])["median"],
            "time_iqr": quartiles(relative[name])["iqr"],
            "memory": memory[name] / memory["ERM"],
        }
    settings = {k: v for k, v in vars(args).items() if k not in ("json", "memory_of")}
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "settings": settings,
        "commit": commit(),
        "versions": versions(),
        "machine": machine,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "methods": methods,
        "ratios": ratios,
    }


def table(result: dict[str, Any]) -> str:
    """The ratios to ERM as text."""
    lines = [f"{'':20}{'ms a step':>12}{'time':>8}{'FLOPs':>8}{'memory':>8}{'loss':>10}"]
    for name, r in result["ratios"].items():
        m = result["methods"][name]
        lines.append(
            f"{name:20}{1e3 * m['seconds']['median']:12.1f}"
            + "".join(f"{r[k]:8.3f}" for k in ("time", "flops", "memory"))
            + f"{m['loss']:10.4f}"
        )
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), help="methods beside ERM")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(measure_memory(args.memory_of, args, torch.device(args.device)))
        return 0
    result = bench(args)
    print(table(result))
    if args.json:
        write_text(args.json, json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
