"""Every test-time adaptation under label shift: one page over saved models, nothing is trained.

    python examples/benchmarks/label_shift_grid.py runs/ERM/seed*/*_epoch:last_model.pth --records FILE.jsonl

Draws images of each bio-batch by the grid of abra_wilds/analysis/shift_grid.py, and collects what every
adaptation makes of them in one .jsonl file, from which the page beside it is made (.md). Models of one row
(--row NAME) differ in seed and fold alone and are averaged; each start adds to a row. What is in the file
already is kept: a second start goes on, and computes of a model only adaptations that are new. Each run's
configuration says where its images are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from abra_wilds.analysis.label_shift import knows_controls, label_shift
from abra_wilds.analysis.saved import Saved, open_saved
from abra_wilds.analysis.shift_grid import DRAWS, Grid, adaptations
from abra_wilds.board.figures.shift_page import page
from abra_wilds.config.datasets import TTA_GROUPS
from abra_wilds.config.fields import path
from abra_wilds.errors import InputError
from abra_wilds.results.files import write_text
from abra_wilds.results.records import read_rows
from abra_wilds.terminal import Parser, exit_cleanly

Rows = list[dict[str, Any]]
KEYS = ("row", "right", "balanced_acc")


def judge(args: argparse.Namespace) -> int:
    """Everything; returns the exit code."""
    rows = read_rows(args.records, KEYS, "label shifts")
    grid = Grid(draws=args.draws, adapters=args.adapters)
    for n, checkpoint in enumerate(args.models, start=1):
        flags = {} if args.root_dir is None else {"root_dir": str(args.root_dir)}
        saved = open_saved(checkpoint, flags, args.tta_group, [args.split])
        row = args.row or saved.config.algorithm
        about = {"row": row, **saved.about(), "group": saved.group, "split": args.split, "draws": args.draws}
        rows, computed = with_model(rows, about, saved, grid)
        print(f"[{n}/{len(args.models)}] {row} {checkpoint}: computed {computed}", flush=True)
        write_text(args.records, "".join(json.dumps(r, separators=(",", ":")) + "\n" for r in rows))
    if not rows:
        raise InputError(f"{args.records} holds no rows, and no model is given; give models")
    series = {name: [r for r in rows if r["row"] == name] for name in dict.fromkeys(r["row"] for r in rows)}
    write_text(args.records.with_suffix(".md"), page("Adaptation under label shift", series))
    return 0


def with_model(rows: Rows, about: Mapping[str, Any], saved: Saved, grid: Grid) -> tuple[Rows, str]:
    """The rows with those of a model, and which adaptations were computed for it now."""
    mine = [row for row in rows if about.items() <= row.items()]
    controls = knows_controls(saved, about["split"])
    wanted = list(adaptations(grid.adapters, saved.group, controls))
    missing = [name for name in wanted if not mine or any(name not in row["right"] for row in mine)]
    if not missing:
        return rows, "nothing"
    cells = label_shift(saved, about["split"], Grid(draws=grid.draws, adapters=missing))
    new = [{**about, **asdict(cell)} for cell in cells]
    for old, row in zip(mine, new, strict=bool(mine)):
        for part in ("right", "balanced_acc", "advice"):
            row[part] = {**old.get(part, {}), **row[part]}
    replaced = ("row", "config_sha256", "checkpoint", "data_sha256")
    kept = [row for row in rows if any(row[key] != new[0][key] for key in replaced)]
    return kept + new, ", ".join(missing)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=path, help="unset: make the page again")
    parser.add_argument("--records", type=path, required=True, metavar="FILE.jsonl", help="is continued")
    parser.add_argument("--row", help="what the page calls these models; unset: their method")
    parser.add_argument("--split", default="test", help="that is drawn from")
    parser.add_argument("--tta_group", choices=tuple(TTA_GROUPS), default="experiment", help="a bio-batch")
    parser.add_argument("--draws", type=int, default=DRAWS, help="of each bio-batch in each cell")
    parser.add_argument("--adapters", nargs="+", metavar="TTA", help="as --also_tta takes them; unset: all")
    parser.add_argument("--root_dir", type=path, help="of the data; unset: as in each run")
    args: argparse.Namespace = parser.parse_args(argv)
    return args


if __name__ == "__main__":
    sys.exit(exit_cleanly(lambda: judge(parse())))
