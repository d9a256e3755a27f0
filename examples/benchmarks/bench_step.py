"""Time, FLOPs and peak memory of a training step of every method, as ratios to ERM of the same run.

    python examples/benchmarks/bench_step.py --all --json bench.json

Every method trains the same backbone on the same batch; DINOv2, which needs a ViT, trains vit_small beside an
ERM of its own. Round after round each takes a step beside one of ERM, in alternating order, and ratios are
medians over these pairs, so that a machine that slows down slows both. "ABRA two forwards" is Algorithm 1 as
written. FLOPs are counted by operator, as the mean of `--flop_draws` steps, because some methods draw whether
a layer acts; peak memory on a GPU is the allocator's, on a CPU the growth of the resident set in a process of
its own. Methods with a phase of frozen features are measured by a step on images. Self-supervised methods get
the views that they ask for, made beforehand and in proportion to the image. With --profile the operators that
take the most time are named, those of ERM too, and those that a method calls more or less often than ERM.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_common import beyond, busiest, circumstances, deliver, make_parser, most_of, observe
from tqdm import tqdm

from abra_wilds import METHODS, get_method
from abra_wilds.config.optim import OptimConfig
from abra_wilds.engine.flops import FlopCount
from abra_wilds.engine.schedule import make_optimizer
from abra_wilds.engine.step import step
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.base import Method
from abra_wilds.nets.backbones import build_net
from abra_wilds.types import Batch, DataInfo, StepContext, Target, groups_of

LITERAL = "ABRA two forwards"
MODELS = {"DINOv2": "vit_small"}
REFERENCES = ("ERM", *(f"ERM {model}" for model in MODELS.values()))
CORE = ("ABRA", "deepCORAL", "groupDRO", "IRM")
RATE = 1e-3
PROFILED = 4  # steps
SHARED = ("model", "batch_size", "image_size", "channels", "seed", "device")


@dataclass
class Trainee:
    """A method with what one step of it needs."""

    method: Method
    optimizer: torch.optim.Optimizer
    batch: Batch

    def step(self) -> float:
        """One step; its loss, read, so that the device has finished."""
        return step(self.method, self.batch, self.optimizer).loss.item()


def model_of(name: str, args: argparse.Namespace) -> str:
    """The backbone that a row is measured on."""
    named = name.removeprefix("ERM ") if name in REFERENCES[1:] else args.model
    return MODELS.get(name, str(named))


def reference_of(name: str) -> str:
    """The row that a row's ratios refer to: ERM on the same backbone."""
    return f"ERM {MODELS[name]}" if name in MODELS else name if name in REFERENCES else "ERM"


def make_trainee(name: str, args: argparse.Namespace, device: torch.device) -> Trainee:
    """A method by name on one fixed batch, of as many bio-batches as its plan asks for."""
    torch.manual_seed(args.seed)
    info = DataInfo(n_classes=1139, in_channels=args.channels, n_groups=255, train_groups=tuple(range(132)))
    cls = get_method("ABRA" if name == LITERAL else "ERM" if name in REFERENCES else name)
    cfg = ABRAConfig(two_forward=True) if name == LITERAL else cls.Config()
    method = (
        cls(build_net(model_of(name, args), args.channels, pretrained=False), info, cfg).to(device).train()
    )
    # After what some methods train first: the classifier's own steps.
    method.context = StepContext(lr=RATE, log=False, epoch=10**6, progress=0.5)
    return Trainee(
        method,
        make_optimizer(OptimConfig(lr=RATE, weight_decay=0.0), method),
        make_batch(method, args, device),
    )


def make_batch(method: Method, args: argparse.Namespace, device: torch.device) -> Batch:
    """One batch as the method's plan wants it, with views where it asks for them."""
    N, C, S = args.batch_size, args.channels, args.image_size
    n_groups = 1 if method.plan.train_loader in ("plate", "controls") else max(2, N // 8)
    g = torch.arange(N) % n_groups
    y = torch.randint(method.info.n_classes, (N,))
    x = torch.randn(N, C, S, S)
    views = tuple(torch.randn(N, C, side, side) for side in view_sides(method, S))
    # A third of a batch with control wells is context.
    context = torch.arange(N) % 3 == 2 if method.plan.train_loader == "controls" else None
    return Batch(x, Target(y), g, g[:, None], torch.arange(N), groups_of(g), views, context).to(device)


def view_sides(method: Method, S: int) -> list[int]:
    """Sides of the views of an S pixel image: those that the method asks for of 256 pixels, in proportion."""
    plan = method.view_plan()
    asked = [side or 256 for side in plan.sizes] if plan else []
    return [max(32, side * S // 256 // 32 * 32) for side in asked]


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
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again at what is resident now
    before = resident_peak()
    trainee = make_trainee(name, args, device)
    for _ in range(2):
        trainee.step()
    return resident_peak() - before


def resident_peak() -> int:
    """Peak of the resident set in bytes, as Linux counts it."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def count_flops(name: str, args: argparse.Namespace) -> float:
    """Mean FLOPs of `flop_draws` steps, counted on tensors without storage."""
    trainee = make_trainee(name, args, torch.device("meta"))
    with FlopCount() as count:
        for _ in range(args.flop_draws):
            step(trainee.method, trainee.batch, trainee.optimizer)
    return float(count.total / args.flop_draws)


def chosen(args: argparse.Namespace) -> list[str]:
    """The rows to measure: the references that they need, then methods, then Algorithm 1 as written."""
    methods = [n for n in METHODS if n != "ERM"] if args.all else list(args.only or CORE)
    references = dict.fromkeys(reference_of(name) for name in ["ABRA", *methods])
    return [*references, *methods, *([LITERAL] if "ABRA" in methods else [])]


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and interquartile range."""
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": median, "iqr": high - low}


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, with what it was measured on."""
    device = torch.device(args.device)
    names = chosen(args)
    trainees = {name: make_trainee(name, args, device) for name in names}
    for name in tqdm(names, desc="warm-up", disable=None):
        trainees[name].step()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    relative: dict[str, list[float]] = {name: [1.0, 1.0] if name in REFERENCES else [] for name in names}
    losses: dict[str, float] = {}
    for i in tqdm(range(args.rounds), desc="rounds", disable=None):
        for name in (n for n in names if n not in REFERENCES):
            reference = reference_of(name)
            pair = {}
            for each in (reference, name) if i % 2 == 0 else (name, reference):
                began = time.perf_counter()
                losses[each] = trainees[each].step()
                pair[each] = time.perf_counter() - began
                seconds[each].append(pair[each])
            relative[name].append(pair[name] / pair[reference])
    profiled = [n for n in names if args.profile and (n in args.profile or n in REFERENCES)]
    rows = {name: observe(trainees[name].step, device, PROFILED) for name in profiled}
    profiles = {name: busiest(rows[name]) for name in profiled}
    differences = {n: beyond(rows[n], rows[reference_of(n)]) for n in profiled if n not in REFERENCES}
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
            "flops": flops[name] / flops[reference_of(name)],
            "time": quartiles(relative[name])["median"],
            "time_iqr": quartiles(relative[name])["iqr"],
            "memory": memory[name] / memory[reference_of(name)],
        }
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        **circumstances(args),
        "machine": machine,
        "threads": torch.get_num_threads(),
        "methods": methods,
        "ratios": ratios,
        "profile": profiles,
        "beyond_reference": differences,
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
    lines += [f"most of {name}: {most_of(found)}" for name, found in result["profile"].items()]
    for name, found in result["beyond_reference"].items():
        own, same = found["other_operators_ms"], found["operators_called_as_often_ms"]
        lines.append(
            f"{name} beyond {reference_of(name)} ({found['reference_ms']:.0f} ms): {own:+.1f} ms in its own "
            f"operators, {same:+.1f} ms in those that both call as often"
        )
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--flop_draws", type=int, default=20, help="steps whose FLOPs are averaged")
    parser.add_argument("--all", action="store_true", help="every method, not only " + ", ".join(CORE))
    parser.add_argument("--only", nargs="+", choices=list(METHODS), help="these methods")
    parser.add_argument("--profile", nargs="+", choices=list(METHODS), help="operators of a step of these")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(measure_memory(args.memory_of, args, torch.device(args.device)))
        return 0
    result = bench(args)
    return deliver(result, table(result), args.json)


if __name__ == "__main__":
    sys.exit(main())
