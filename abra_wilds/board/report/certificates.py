"""What a report says of single bio-batches: their certificates, and the advice whether to adapt to them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abra_wilds.board.report.parts import Group, headline
from abra_wilds.errors import InputError
from abra_wilds.results.runs import SPLIT_NAMES

HEADER = (
    *("Bio-batch", "Images", "Estimated accuracy, %", "Interval", "Trusted", "Advice", "Because"),
    *("Predictions changed, %", "Class mix spread"),
)


@dataclass(frozen=True)
class Certified:
    """Certificates of one set of predictions.

    Attributes:
        caption: whose they are.
        rows: as HEADER names them.
    """

    caption: str
    rows: list[list[str]]


def certified(groups: Sequence[Group]) -> list[Certified]:
    """Certificates of the split that a report speaks of first, of every row and seed that has some.

    Raises:
        InputError: for a file that cannot be read.
    """
    split = headline(groups)[1]
    found = []
    for group in groups:
        for entry in group.of(split):
            predictions = entry.folder / entry.record.predictions
            path = predictions.with_name(predictions.name.replace("_pred.csv", "_certificates.csv"))
            if path.is_file():
                caption = f"{group.label}, {SPLIT_NAMES.get(split, split)}, seed {entry.record.seed}"
                found.append(Certified(caption, certificate_rows(path)))
    return found


def verdict(found: Sequence[Certified]) -> str:
    """What all certificates say together, in a sentence; "" without any."""
    rows = [dict(zip(HEADER, row, strict=True)) for one in found for row in one.rows]
    if not rows:
        return ""
    doubted = sum(row["Trusted"] != "yes" for row in rows)
    advice = ", ".join(f"{words} {n}" for words, n in Counter(row["Advice"] for row in rows).most_common())
    return f"Of {len(rows)} certificates of bio-batches, {doubted} say not to trust; the advice is: {advice}."


def certificate_rows(path: Path) -> list[list[str]]:
    """A file of certificates as text.

    Raises:
        InputError: if it is none.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                [
                    row["bio_batch"],
                    row["images"],
                    f"{100 * float(row['accuracy']):.1f}",
                    f"{100 * float(row['low']):.0f} to {100 * float(row['high']):.0f}",
                    "yes" if row["trusted"] == "True" else f"no: {row['reason']}",
                    row["advice"],
                    row["because"],
                    f"{100 * float(row['changed']):.1f}",
                    f"{float(row['class_mix']):.2f}",
                ]
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise InputError(f"{path} holds no certificates; predict again") from None
