"""What all benchmarks share: how they are called, under what circumstances they ran, and where results go."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from abra_wilds.results.files import write_text
from abra_wilds.results.provenance import commit, versions

# Arguments that say where something lies, or how a benchmark calls itself, and change no number.
PLACES = ("json", "folder", "memory_of")
SHOWN = 12  # operators or kernels of a profile
Profile = dict[str, tuple[float, float]]  # operator or kernel: calls and milliseconds


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with --json."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=result_file, help="file for the result")
    return parser


def result_file(text: str) -> Path:
    """Where a result goes; its folder is asked for before minutes are spent, not after."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent} for {path.name}; make it first")
    return path


def circumstances(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a benchmark, and the code and machine that ran it."""
    settings = {k: v for k, v in vars(args).items() if k not in PLACES}
    return {"settings": settings, "commit": commit(), "versions": versions(), "cores": os.cpu_count()}


def deliver(result: Mapping[str, Any], table: str, path: Path | None) -> int:
    """Print a result's table, and write the result where it was asked for; returns the exit code."""
    print(table)
    if path is not None:
        write_text(path, json.dumps(result, indent=2) + "\n")
    return 0


def profile(work: Callable[[], Any], device: torch.device) -> list[dict[str, Any]]:
    """What takes the most time of some work that waits for the device.

    On a GPU these are kernels, and elsewhere operators with the sizes of what they take.
    """
    return busiest(observe(work, device))


def observe(work: Callable[[], Any], device: torch.device, times: int = 1) -> Profile:
    """Calls and milliseconds of every operator or kernel, for each time that the work is done.

    On a GPU an operator's row holds the time of its kernels, which have rows of their own, and so has every
    range that was named; only kernels and copies count there.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    on_gpu = device.type == "cuda"
    activities += [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
    with torch.profiler.profile(activities=activities, record_shapes=not on_gpu) as found:
        for _ in range(times):
            work()
    events: Iterable[Any] = found.key_averages(group_by_input_shape=not on_gpu)
    taken = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    if on_gpu:
        events = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    rows: Profile = {}
    for e in events:
        calls, ms = rows.get(named(e), (0.0, 0.0))
        rows[named(e)] = (calls + e.count / times, ms + getattr(e, taken) / times / 1e3)
    return rows


def busiest(rows: Profile) -> list[dict[str, Any]]:
    """The operators that take the most time, with their share of all."""
    total = sum(ms for _, ms in rows.values())
    kept = sorted(rows.items(), key=lambda row: -row[1][1])[:SHOWN]
    return [{"operator": name, "share": round(ms / total, 4)} for name, (_, ms) in kept]


def beyond(rows: Profile, reference: Profile) -> dict[str, Any]:
    """Where some work takes more time than a reference.

    Operators that both call as often differ by the machine's noise, so they are one sum; the others are what
    the work does beyond the reference, or less than it.
    """
    nothing = (0.0, 0.0)
    pairs = {n: (rows.get(n, nothing), reference.get(n, nothing)) for n in rows.keys() | reference.keys()}
    more = {n: own[1] - other[1] for n, (own, other) in pairs.items() if own[0] != other[0]}
    same = sum(own[1] - other[1] for own, other in pairs.values() if own[0] == other[0])
    kept = sorted(more, key=lambda n: -abs(more[n]))[:SHOWN]
    return {
        "reference_ms": sum(ms for _, ms in reference.values()),
        "operators_called_as_often_ms": same,
        "other_operators_ms": sum(more.values()),
        "most": [
            {"operator": n, "calls": pairs[n][0][0], "reference_calls": pairs[n][1][0], "ms": more[n]}
            for n in kept
        ],
    }


def named(event: Any) -> str:
    """A kernel, or an operator with the sizes of the tensors that it takes."""
    return " ".join([event.key, *("x".join(map(str, size)) for size in event.input_shapes if size)])


def most_of(found: Sequence[Mapping[str, Any]]) -> str:
    """The first operators of a profile in words."""
    return ", ".join(f"{e['operator'][:80]} {e['share']:.0%}" for e in found[:3])
