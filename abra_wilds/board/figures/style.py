"""How figures look, and the three files that each becomes. The colour-blind can tell the colours apart."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from abra_wilds.board.figures.values import FigureRows
from abra_wilds.results.files import atomic_write, csv_text, write_text

# Okabe and Ito's palette without its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#8C8C8C"
# A fixed salt and no date: the same values give the same bytes.
STYLE: Any = {"svg.hashsalt": "abra_wilds", "svg.fonttype": "none"}


def new_figure(title: str, width: float, height: float, *, simulated: bool) -> Figure:
    """An empty figure with its title, width and height in inches; simulated data is called so."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(f"Simulated data. {title}" if simulated else title, fontsize=11)
    return figure


def note(figure: Figure, text: str) -> None:
    """What a reader needs to know, below a figure."""
    across = int(15 * figure.get_figwidth())
    figure.supxlabel("\n".join(textwrap.wrap(text, across)), fontsize=8, color="#404040")


def plain(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Label both axes, and leave lines that say nothing away."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E0E0E0", linewidth=0.6)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, values: FigureRows, folder: Path, name: str) -> list[Path]:
    """Write a figure as .png and .svg, and its values as .csv."""
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg", "csv")]
    with rc_context(STYLE):
        with atomic_write(paths[0]) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
        with atomic_write(paths[1]) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
    write_text(paths[2], csv_text(values))
    return paths
