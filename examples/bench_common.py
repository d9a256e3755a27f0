"""What all benchmarks share: how they are called, under what circumstances they ran, and where results go."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from abra_wilds.files import write_text
from abra_wilds.provenance import commit, versions

# Arguments that say where something lies, or how a benchmark calls itself, and change no number.
PLACES = ("json", "folder", "memory_of")


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
