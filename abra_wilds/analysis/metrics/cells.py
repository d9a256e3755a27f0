"""The table of metrics as text, from the entries of a metrics.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from abra_wilds.results.records import aligned

METRICS_FILE = "metrics.json"


def cells_of(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: embeddings, and the chance of the first of them last."""
    if not entries:
        return ["Features"], []
    names = list(entries[0]["chance"])
    rows = [[name, *(cell(e[name], e["interval"][name]) for e in entries)] for name in names]
    rows.append([f"chance, {names[0]}", *(f"{e['chance'][names[0]]:.3f}" for e in entries)])
    rows.append(["wanted", *(e["better"] for e in entries)])
    return ["Features", *(e["metric"] for e in entries)], rows


def cell(value: float, interval: Sequence[float] | None) -> str:
    """A number with its interval.

    >>> cell(0.5, (0.44, 0.56)), cell(0.5, None)
    ('0.500 [0.44, 0.56]', '0.500')
    """
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def caveats_of(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each metric does not say, those of one caveat in a line."""
    by_caveat: dict[str, list[str]] = {}
    for e in entries:
        by_caveat.setdefault(e["caveat"], []).append(e["metric"])
    return [f"{'; '.join(names)}: {caveat}" for caveat, names in by_caveat.items()]


def metrics_text(entries: Sequence[Mapping[str, Any]]) -> str:
    """The table as text, with a caveat a line."""
    header, rows = cells_of(entries)
    return "\n".join([aligned([header, *rows]), *caveats_of(entries)]) + "\n"
