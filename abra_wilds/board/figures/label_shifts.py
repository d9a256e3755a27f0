"""Accuracy of every adaptation under label shift as a figure, from its values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from abra_wilds.analysis.verdicts import NONE, Mean, Rows, means
from abra_wilds.board.figures.drawings import ACCURACY
from abra_wilds.board.figures.shift_page import of_models, shown
from abra_wilds.board.figures.style import COLOURS, GREY, new_figure, note, plain
from abra_wilds.results.runs import SPLIT_NAMES

SHOWN_ALPHA = 0.1  # at which sizes are shown beside inf, or the one nearest to it
MARKERS = "os^DvP*XpdH<>"
PALETTE = (*(colour for colour in COLOURS if colour != "#000000"), GREY, "#7F3B08", "#542788")


def draw_label_shifts(rows: Rows, name: str) -> Figure:
    """Accuracy against alpha, and against n without and with a label shift; a line for each adaptation.

    Args:
        rows: of all models, which are averaged.
        name: of their method.
    """
    first, found = rows[0], means(rows)
    split, group = SPLIT_NAMES.get(first["split"], first["split"]), first["group"]
    alphas = sorted({as_number(m.alpha) for m in found}, reverse=True)
    largest = max(as_number(m.size) for m in found)
    shifted = min(alphas, key=lambda alpha: abs(alpha - SHOWN_ALPHA))
    title = f"Adaptation under label shift, {split}, {name}"
    figure = new_figure(title, 12.5, 4.6, simulated=first["simulated"])
    of_sizes = list(dict.fromkeys((alphas[0], shifted)))
    panels = figure.subplots(1, 1 + len(of_sizes), sharey=True)
    looks = looks_of(list(dict.fromkeys(m.adapter for m in found)))
    whole = [m for m in found if as_number(m.size) == largest]
    at = {m: (-as_number(m.alpha), shown(m.alpha, "inf")) for m in whole}
    add_lines(panels[0], at, looks)
    plain(panels[0], f"alpha of the class mix (n = {shown_number(largest, 'all')})", ACCURACY)
    for axes, alpha in zip(panels[1:], of_sizes, strict=True):
        mine = [m for m in found if as_number(m.alpha) == alpha]
        add_lines(axes, {m: (as_number(m.size), shown(m.size, "all")) for m in mine}, looks)
        plain(axes, f"images n of one {group} (alpha = {shown_number(alpha, 'inf')})", "")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, loc="outside right upper", handlelength=3.5, frameon=False)
    note(
        figure,
        f"{of_models(rows)} Alpha: of the Dirichlet distribution of a draw's classes; inf: images whatever "
        "their class. Dashed: with controls.",
    )
    return figure


def as_number(value: float | None) -> float:
    """An alpha or a size as a number: none given is infinity."""
    return inf if value is None else value


def shown_number(value: float, absent: str) -> str:
    """The same as flags take it."""
    return shown(None if value == inf else value, absent)


def looks_of(names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Colour, marker and line of each adaptation: with controls that of the same without, dashed."""
    kinds = list(dict.fromkeys(name.partition(",")[0] for name in names if name != NONE))
    looks: dict[str, Mapping[str, Any]] = {}
    for name in names:
        if name == NONE:
            looks[name] = {"color": "black", "linewidth": 2.2, "marker": "", "zorder": 2}
            continue
        k = kinds.index(name.partition(",")[0])
        looks[name] = {
            **{"color": PALETTE[k % len(PALETTE)], "linestyle": "--" if "controls=" in name else "-"},
            # Markers are not filled, because adaptations that agree lie one on the other.
            **{"marker": MARKERS[k % len(MARKERS)], "markersize": 6, "markerfacecolor": "none"},
        }
    return looks


def add_lines(
    axes: Axes, at: Mapping[Mean, tuple[float, str]], looks: Mapping[str, Mapping[str, Any]]
) -> None:
    """A line for each adaptation, over places that are equally far from each other.

    Args:
        axes: to draw on.
        at: of each value its place in the order from left to right, and that place's name.
        looks: of the adaptations.
    """
    places = sorted(set(at.values()))
    for name, look in looks.items():
        mine = {places.index(place): 100 * m.acc for m, place in at.items() if m.adapter == name}
        axes.plot(*zip(*sorted(mine.items()), strict=True), label=name, **{"linewidth": 1.4, **look})
    axes.set_xticks(range(len(places)), [name for _, name in places])
