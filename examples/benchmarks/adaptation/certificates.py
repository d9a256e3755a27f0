"""Certificates of bio-batches against their labels: one page over saved models, nothing is trained.

    python examples/benchmarks/adaptation/certificates.py runs/ERM/seed*/*last_model.pth --records FILE.jsonl

Of every test bio-batch with 40 images in question or more: the estimated accuracy beside other estimates, its
interval, the coverage of its conformal sets, and how far confidences can be believed; with and without the
classes of controls and the knowledge which images show one well. All goes into one .jsonl file, from
which the page (.md) and the reliability diagram (.png) beside it are made; a model that is there is not
judged again.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from abra_wilds.analysis.certified import certified
from abra_wilds.analysis.saved import open_saved
from abra_wilds.board.figures.style import COLOURS, GREY, new_figure, note, plain
from abra_wilds.config.datasets import TTA_GROUPS
from abra_wilds.config.fields import path
from abra_wilds.errors import InputError
from abra_wilds.results.files import atomic_write, write_text
from abra_wilds.results.records import markdown, read_rows
from abra_wilds.terminal import Parser, exit_cleanly

Rows = list[dict[str, Any]]
ESTIMATES = {
    **{"ours": "certificate", "AC": "AC", "AC at one T": "AC at one T", "DoC": "DoC", "ATC": "ATC"},
    **{"val": "val's accuracy", "own": "of a calibrated predictor"},
}
EXPLAINED = """{simulated}Test bio-batches with 40 images in question or more, of models that were
calibrated on val alone, predicted by eb_bn.

First table: mean absolute error of the estimated accuracy, in points. AC is average confidence, at one T
after division by val's temperature, DoC the difference of confidences, ATC average thresholded
confidence; the last column has the temperature of the bio-batch's own labels, which nobody knows: what
stays is chance.

Second table, in percent: coverage of conformal sets at {level:.0f} %, its mean distance from that, the
same with one threshold for all bio-batches (LAC), what coins alone would give, bio-batches within 2
points and how many coins would bring there, classes a set, bio-batches whose interval holds their
accuracy, mean width of the interval, and bio-batches that are not trusted, with their accuracy against
that of the others. Third table: predictions by confidence, as it is and as certified, against the share
of right ones, in percent; ECE is the mean distance of both, weighed by predictions."""
KEYS = ("row", "estimates", "reliability")


def judge(args: argparse.Namespace) -> int:
    """Everything; returns the exit code."""
    rows = read_rows(args.records, KEYS, "certificates")
    for n, checkpoint in enumerate(args.models, start=1):
        saved = open_saved(checkpoint, {}, args.tta_group)
        row = args.row or saved.config.algorithm
        about = {"row": row, **saved.about(), "group": saved.group}
        if not any(about.items() <= r.items() for r in rows):
            rows += [{**about, **asdict(found)} for found in certified(saved, args.split)]
        print(f"[{n}/{len(args.models)}] {row} {checkpoint}", flush=True)
        write_text(args.records, "".join(json.dumps(r, separators=(",", ":")) + "\n" for r in rows))
    if not rows:
        raise InputError(f"{args.records} holds no rows, and no model is given; give models")
    write_text(args.records.with_suffix(".md"), page(rows))
    figure = reliability_diagram(rows)
    with atomic_write(args.records.with_suffix(".png")) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return 0


def by_knowledge(rows: Rows) -> dict[str, Rows]:
    """The rows of each kind of knowledge."""
    found: dict[str, Rows] = {}
    for r in rows:
        known = [*(["two sites a well"] if r["sites"] else []), *(["controls"] if r["controls"] else [])]
        found.setdefault(", ".join(known) or "neither sites nor controls", []).append(r)
    return found


def page(rows: Rows) -> str:
    """The page in Markdown."""
    first = rows[0]
    text = EXPLAINED.format(
        simulated="Simulated data. " if first["simulated"] else "", level=100 * first["level"]
    )
    paragraphs = (textwrap.fill(t, 110, break_on_hyphens=False) for t in text.split("\n\n"))
    counts = {name: len({r["checkpoint_sha256"] for r in of}) for name, of in series(rows).items()}
    models = "Models: " + ", ".join(f"{count} of {name}" for name, count in counts.items()) + "."
    parts = ["# Certificates against labels", *paragraphs, models]
    parts += [markdown(error_cells(rows)), markdown(coverage_cells(rows)), markdown(reliability_cells(rows))]
    return "\n\n".join(parts) + "\n"


def series(rows: Rows) -> dict[str, Rows]:
    """The rows by their name."""
    return {name: [r for r in rows if r["row"] == name] for name in dict.fromkeys(r["row"] for r in rows)}


def error(rows: Rows, name: str) -> float:
    """Mean absolute error of an estimate, in points."""
    return float(np.mean([100 * abs(r["estimates"][name] - r["accuracy"]) for r in rows]))


def error_cells(rows: Rows) -> list[list[str]]:
    """Errors of the estimates, all models together and, by certificate alone, of each row; the head first."""
    cells = [["known", "bio-batches", *ESTIMATES.values()]]
    for known, of in by_knowledge(rows).items():
        cells.append([known, str(len(of)), *(f"{error(of, name):.1f}" for name in ESTIMATES)])
        parts = series(of)
        for name, part in parts.items() if len(parts) > 1 else ():
            cells.append([f"- {name}", str(len(part)), *(f"{error(part, e):.1f}" for e in ESTIMATES)])
    return cells


def coverage_cells(rows: Rows) -> list[list[str]]:
    """What sets and intervals cover, the head first."""
    head = ["known", "coverage", "distance", "with one threshold", "of coins", "within 2 points", "of coins"]
    cells = [[*head, "classes a set", "interval holds", "width", "not trusted", "their accuracy", "others'"]]
    for known, of in by_knowledge(rows).items():
        n, level = np.array([r["images"] for r in of]), of[0]["level"]
        covered, one = (np.array([r[k] for r in of]) / n for k in ("covered", "covered_by_one"))
        coins = np.random.default_rng(0).binomial(n, level, (4000, len(n))) / n - level
        acc, low, high = (np.array([r[k] for r in of]) for k in ("accuracy", "low", "high"))
        trusted = np.array([r["trusted"] for r in of])
        shares = (
            *(covered.mean(), abs(covered - level).mean(), abs(one - level).mean(), abs(coins).mean()),
            *((abs(covered - level) <= 0.02).mean(), (abs(coins) <= 0.02).mean()),
        )
        held = ((low <= acc) & (acc <= high)).mean(), (high - low).mean()
        cells.append(
            [
                *(known, *(f"{100 * share:.1f}" for share in shares)),
                f"{np.mean([r['set_size'] for r in of]):.1f}",
                *(f"{100 * share:.0f}" for share in held),
                f"{(~trusted).sum()} of {len(of)}",
                *(
                    f"{100 * acc[of_them].mean():.0f}" if of_them.any() else "-"
                    for of_them in (~trusted, trusted)
                ),
            ]
        )
    return cells


def reliability(rows: Rows, kind: str) -> Any:
    """Images, right ones and the sum of confidences of each bin, (10, 3)."""
    return np.array([r["reliability"][kind] for r in rows]).sum(0)


def reliability_cells(rows: Rows) -> list[list[str]]:
    """Confidence against accuracy by bin, the head first."""
    bins = range(len(rows[0]["reliability"]["as it is"]))
    cells = [["known", "confidence", *(f"{10 * k} to {10 * k + 10}" for k in bins), "ECE"]]
    for known, of in by_knowledge(rows).items():
        for kind in rows[0]["reliability"]:
            n, right, confidence = reliability(of, kind).T
            shown = [
                f"{100 * c / m:.0f}: {100 * h / m:.0f}" if m else "-"
                for m, h, c in zip(n, right, confidence, strict=True)
            ]
            cells.append([known, kind, *shown, f"{100 * abs(right - confidence).sum() / n.sum():.1f}"])
    return cells


def reliability_diagram(rows: Rows) -> Any:
    """Accuracy by confidence, as it is and as certified, a panel for each kind of knowledge."""
    kinds = by_knowledge(rows)
    figure = new_figure(
        "Confidence and accuracy", 3.4 * len(kinds) + 0.6, 4.2, simulated=rows[0]["simulated"]
    )
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, (known, of) in zip(panels, kinds.items(), strict=True):
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--")
        for colour, kind in zip(COLOURS, rows[0]["reliability"], strict=False):
            n, right, confidence = reliability(of, kind).T
            at = n > 0
            x, y = 100 * confidence[at] / n[at], 100 * right[at] / n[at]
            axes.plot(x, y, color=colour, linewidth=1.3, label=kind)
            axes.scatter(x, y, s=4 + 150 * n[at] / n.sum(), color=colour, zorder=3)
        axes.set_title(known, fontsize=9)
        plain(axes, "confidence, %", "right, %" if axes is panels[0] else "")
    panels[0].legend(fontsize=8)
    note(
        figure,
        "Ten bins of confidence over all bio-batches and models; areas of points are shares of images.",
    )
    return figure


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=path, help="unset: make the page again")
    parser.add_argument("--records", type=path, required=True, metavar="FILE.jsonl", help="is continued")
    parser.add_argument("--row", help="what the page calls these models; unset: their method")
    parser.add_argument("--split", default="test", help="whose bio-batches are certified")
    parser.add_argument("--tta_group", choices=tuple(TTA_GROUPS), default="experiment", help="a bio-batch")
    args: argparse.Namespace = parser.parse_args(argv)
    return args


if __name__ == "__main__":
    sys.exit(exit_cleanly(lambda: judge(parse())))
