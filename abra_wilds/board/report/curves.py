"""Training curves of a report, from the csv files that runs leave; drawn to stand inside a page.

The lines of a figure take the colours of the page, so that it can be read in light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from abra_wilds.board.figures.drawings import spread_colours
from abra_wilds.board.figures.style import STYLE, new_figure, plain
from abra_wilds.board.report.parts import Group
from abra_wilds.errors import InputError
from abra_wilds.results.runs import SPLIT_NAMES

TERM = re.compile(r"objective|L_\w+|R_JS|\w*penalty|\w+_loss")
RATIO = re.compile(r"K_rel_mean.*")
# Colours that say nothing become those of the page.
THEMED = {
    "#0072b2": "var(--blue)",
    "#000000": "currentColor",
    "#404040": "currentColor",
    "#e0e0e0": "var(--line)",
}
DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Curve:
    """A quantity over the epochs.

    Attributes:
        name: of what it is.
        points: (n) mean, min and max over seeds, by epoch.
        dashes: of the line.
        colour: of the line.
    """

    name: str
    points: pd.DataFrame
    dashes: str = "-"
    colour: object = None


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        caption: what it shows.
        html: the figure itself, with its text alternative.
    """

    caption: str
    html: str


def curve_pictures(groups: Sequence[Group]) -> list[Picture]:
    """Loss terms, |K|/sigma and accuracies over the epochs; those of which no run has a column are left out.

    Raises:
        InputError: for a csv that cannot be read.
    """
    # Adaptations and other epochs of the same runs have no training of their own.
    trained = {tuple(sorted({str(e.run.path) for e in g.entries})): g for g in reversed(groups) if g.trained}
    own = list(reversed(trained.values()))
    simulated = own[0].entries[0].record.simulated if own else False
    algo = {g.label: read_curves(g, "train_algo.csv") for g in own}
    evals = {(g.label, s): read_curves(g, f"{s}_eval.csv") for g in own for s in ("train", "val")}
    panels: list[tuple[str, str, dict[str, list[Curve]], bool]] = [
        ("Terms of the training loss", "loss (nats, as logged)", loss_panels(algo), True),
        ("Size of ABRA's shifts", "|K| / sigma (no unit)", {"": ratio_curves(algo)}, False),
        ("Accuracy after each epoch", "accuracy (% of images)", accuracy_panels(evals), False),
    ]
    return [
        picture(draw(title, ylabel, shown, log=log, simulated=simulated), f"curves{k}", title, shown)
        for k, (title, ylabel, all_shown, log) in enumerate(panels)
        if (shown := {name: curves for name, curves in all_shown.items() if curves})
    ]


def read_curves(group: Group, name: str) -> pd.DataFrame:
    """A csv of all seeds of a row, with a column x of epochs gone by; empty where no run has it.

    Raises:
        InputError: for a file that cannot be read.
    """
    frames = []
    for folder in sorted({e.run.path for e in group.entries}):
        path = folder / name
        if path.is_file():
            frames.append(read_log(path))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def read_log(path: Path) -> pd.DataFrame:
    """One csv of a run, with a column x of epochs gone by.

    Raises:
        InputError: for a file that cannot be read.
    """
    try:
        frame = pd.read_csv(path)
        part = frame["batch"] / frame["batch"].max() if "batch" in frame else 1
        return frame.apply(pd.to_numeric).assign(x=frame["epoch"] + part)
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} is no table of numbers with a column epoch; restore the file or remove it"
        ) from None


def over_seeds(frame: pd.DataFrame, column: str, times: float = 1) -> pd.DataFrame:
    """Mean, min and max of a column over seeds, by epochs gone by; what is not a number is left out."""
    return (times * frame.set_index("x")[column].dropna()).groupby(level=0).agg(["mean", "min", "max"])


def loss_panels(algo: Mapping[str, pd.DataFrame]) -> dict[str, list[Curve]]:
    """A panel for each method with its loss terms."""
    return {
        label: [Curve(c, over_seeds(frame, c)) for c in frame if TERM.fullmatch(c) and frame[c].notna().any()]
        for label, frame in algo.items()
    }


def ratio_curves(algo: Mapping[str, pd.DataFrame]) -> list[Curve]:
    """|K|/sigma of every method that has it, of each insertion point."""
    return [
        Curve(f"{label}{c.removeprefix('K_rel_mean').replace('_', ' ')}", over_seeds(frame, c))
        for label, frame in algo.items()
        for c in frame
        if RATIO.fullmatch(c) and frame[c].notna().any()
    ]


def accuracy_panels(evals: Mapping[tuple[str, str], pd.DataFrame]) -> dict[str, list[Curve]]:
    """A panel for train and one for val, with a curve for each method."""
    panels: dict[str, list[Curve]] = {}
    for (label, split), frame in evals.items():
        if "acc_avg" in frame:
            panels.setdefault(SPLIT_NAMES[split], []).append(Curve(label, over_seeds(frame, "acc_avg", 100)))
    return panels


def draw(
    title: str, ylabel: str, panels: Mapping[str, Sequence[Curve]], *, log: bool, simulated: bool
) -> Figure:
    """Panels of curves, three beside each other; bands go from the lowest to the highest seed."""
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure = new_figure(title, 2 + 3.4 * across, 0.6 + 3 * down, simulated=simulated)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    for panel, (name, curves) in zip(axes, panels.items(), strict=False):
        add_curves(panel, curves)
        panel.set_title(name, fontsize=10)
        plain(panel, "epochs", ylabel)
        panel.xaxis.get_major_locator().set_params(integer=True)
        # R_JS is orders of magnitude below the other terms.
        least, most = (fold(fold(c.points["mean"]) for c in curves) for fold in (min, max))
        if log and 0 < 100 * least < most:
            panel.set_yscale("log")
        panel.legend(
            fontsize=7,
            frameon=False,
            loc="best" if len(curves) < 8 else "upper left",
            **({} if len(curves) < 8 else {"bbox_to_anchor": (1, 1)}),
        )
    return figure


def add_curves(panel: Axes, curves: Sequence[Curve]) -> None:
    """Lines with their bands; every fourth looks alike in all but its colour."""
    for k, (curve, colour) in enumerate(zip(curves, spread_colours(len(curves)), strict=True)):
        x, points = curve.points.index, curve.points
        marker = "o" if len(x) < 30 else ""
        panel.plot(
            x, points["mean"], DASHES[k % 4], color=colour, marker=marker, markersize=3, label=curve.name
        )
        panel.fill_between(x, points["min"], points["max"], color=colour, alpha=0.2, linewidth=0)


def picture(figure: Figure, prefix: str, title: str, panels: Mapping[str, Sequence[Curve]]) -> Picture:
    """A figure as SVG for a page, with where each curve begins and ends as text alternative."""
    ends = "; ".join(
        f"{f'{name}: ' if name else ''}{c.name} {mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g}"
        for name, curves in panels.items()
        for c in curves
        for mean in [c.points["mean"]]
    )
    caption = f"{title}. Lines: means over seeds; bands: lowest to highest seed."
    return Picture(caption, inline_svg(figure, prefix, f"{title}, from first to last. {ends}."))


def inline_svg(figure: Figure, prefix: str, alt: str) -> str:
    """A figure as an SVG element that takes the page's colours and font.

    Args:
        figure: whose black and greys are the page's to choose.
        prefix: makes ids unique in the page.
        alt: text alternative.
    """
    text = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(
        r"<metadata>.*?</metadata>\s*", "", text.getvalue()[text.getvalue().index("<svg") :], flags=re.S
    )
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    for colour, ours in THEMED.items():
        svg = svg.replace(colour, ours)
    width = re.search(r'width="([\d.]+)pt"', svg)
    size = f' style="max-width: {float(width[1]) * 4 / 3:.0f}px"' if width else ""
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}"{size} ', 1)
