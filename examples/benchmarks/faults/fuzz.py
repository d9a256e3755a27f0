"""Fuzz every parser of user input for minutes, and write how many inputs each has met.

    python examples/benchmarks/faults/fuzz.py --minutes 10 --json leaderboard/records/fuzz.json

The parsers, their inputs and the property are those of tests/fuzz, which the quick tests run for some hundred
inputs each. A parser is done after --examples inputs or --minutes, whichever comes first; the file is written
after each. The exit code is 1 if anything but a value or a documented error came out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from abra_wilds.errors import InputError
from abra_wilds.results.files import write_text
from abra_wilds.results.provenance import commit, versions
from abra_wilds.terminal import alone

CHUNK = 500  # inputs between two looks at the clock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--minutes", type=float, default=10.0, help="for each parser, at most")
    parser.add_argument("--examples", type=int, default=100_000, help="inputs of each parser, at most")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parsers to fuzz; unset: all")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go")


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    PARSERS = import_module("tests.fuzz.parsers").PARSERS
    names = args.only or list(PARSERS)
    if unknown := [name for name in names if name not in PARSERS]:
        raise InputError(f"--only got {unknown[0]!r}; choose among {', '.join(PARSERS)}")
    found: dict[str, Any] = {"commit": commit(), "seed": args.seed, "versions": versions(), "parsers": {}}
    for name in names:
        found["parsers"][name] = one = fuzz(PARSERS[name], args)
        print(f"{name}: {json.dumps(one)}", flush=True)
        if args.json is not None:
            write_text(args.json, json.dumps(found, indent=1) + "\n")
    return 1 if any(one["faults"] for one in found["parsers"].values()) else 0


def fuzz(parser: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Inputs, outcomes, seconds and the faults of a parser, one for each kind and place."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    outcome = import_module("tests.fuzz.parsers").outcome
    counts: Counter[str] = Counter()
    faults: dict[str, str] = {}

    def check(given_input: Any) -> None:
        try:
            counts[outcome(parser, given_input)] += 1
        except Exception as fault:
            counts["fault"] += 1
            faults.setdefault(place_of(fault), repr(given_input)[:2000])

    begun, chunk = time.monotonic(), 0
    while counts.total() < args.examples and time.monotonic() - begun < 60 * args.minutes:
        size = min(CHUNK, args.examples - counts.total())
        rules = settings(
            max_examples=size,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        seed(args.seed * 1_000_000 + chunk)(rules(given(given_input=parser.inputs)(check)))()
        chunk += 1
    seconds = round(time.monotonic() - begun, 1)
    return {"examples": counts.total(), **counts, "seconds": seconds, "faults": faults}


def place_of(fault: Exception) -> str:
    """Kind of a fault and the last line of the package that it passed."""
    trace, place = fault.__traceback__, "outside"
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "abra_wilds/" in file:
            place = f"{file.rpartition('abra_wilds/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(fault).__name__} in {place}: {str(fault)[:200]}"


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    sys.exit(alone(__doc__, add_arguments, run))
