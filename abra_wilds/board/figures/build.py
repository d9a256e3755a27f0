"""What each figure is drawn from, and how it is made."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from abra_wilds.analysis.advice import SOURCE, Shift, advice
from abra_wilds.analysis.verdicts import means, settled
from abra_wilds.board.figures.ablations import ablation
from abra_wilds.board.figures.drawings import draw_bars, draw_batch_sizes, draw_points, draw_shift
from abra_wilds.board.figures.label_shifts import draw_label_shifts
from abra_wilds.board.figures.shift_page import page
from abra_wilds.board.figures.style import save_figure
from abra_wilds.board.figures.values import (
    ABLATIONS,
    COMPUTED,
    SHARED,
    SHIFT,
    FigureRows,
    Number,
    Values,
    refuse_unlike_models,
    values_of,
)
from abra_wilds.errors import InputError
from abra_wilds.results.files import make_out, write_text
from abra_wilds.results.runs import Run

if TYPE_CHECKING:
    from abra_wilds.analysis.saved import Saved
    from abra_wilds.analysis.shift_grid import Grid


@dataclass(frozen=True)
class Made:
    """A figure and what it shows.

    Attributes:
        name: of its files.
        figure: the figure.
        values: its numbers, one row each.
        sentence: what it says, where it says something in words.
        page: the same and more in Markdown, for a file of its own.
    """

    name: str
    figure: Figure
    values: FigureRows
    sentence: str | None = None
    page: str | None = None


def made_figures(runs: Sequence[Run], number: Number) -> Iterator[Made]:
    """The figures of a number, from records and from values computed earlier.

    Args:
        runs: of which.
        number: 5 to 10, or "shift".

    Raises:
        InputError: if there is nothing to make it of.
    """
    if number in ABLATIONS:
        flag, title, xlabel = ABLATIONS[number]
        bars = ablation(runs, flag)
        yield Made(f"figure_{number}", draw_bars(bars, title, xlabel), [asdict(bar) for bar in bars])
        return
    found = values_of(runs, number)
    if number == SHIFT:
        yield from label_shifts(found)
        return
    if number == 7:
        rows = [row for values in found for row in values.rows]
        refuse_unlike_models(rows)
        yield Made("figure_7", draw_batch_sizes(rows), rows)
        return
    for values in found:
        name = f"figure_{number}_{values.name}"
        if number == 8:
            sentence = advised(values.rows)
            yield Made(name, draw_shift(values.rows, sentence), values.rows, sentence)
        else:
            yield Made(name, draw_points(values.rows), values.rows)


def label_shifts(found: Sequence[Values]) -> Iterator[Made]:
    """A figure for the models of each method, settings and epoch, which are averaged.

    Raises:
        InputError: if models saw different kinds of data, or other grids.
    """
    series: dict[tuple[str, ...], list[Values]] = {}
    for values in found:
        key = tuple(values.rows[0][k] for k in ("method", "settings", "checkpoint"))
        series.setdefault(key, []).append(values)
    for (method, settings, checkpoint), models in series.items():
        rows = [row for values in models for row in values.rows]
        refuse_unlike_models(rows)
        digest = f"_{rows[0]['config_sha256'][:8]}" if settings else ""
        name = f"{method} [{settings}]" if settings else method
        shared = (*SHARED, "method", "settings", "checkpoint", "seed", "config_sha256")
        yield Made(
            f"figure_{SHIFT}_{method}_{checkpoint}{digest}",
            draw_label_shifts(rows, name),
            [
                {**{k: values.rows[0][k] for k in shared}, **asdict(mean)}
                for values in models
                for mean in means(values.rows)
            ],
            settled(rows),
            page("Adaptation under label shift", {name: rows}),
        )


def advised(rows: FigureRows) -> str:
    """The sentence about adaptation, from the values of Figure 8."""
    names = [f.name for f in fields(Shift)]
    shifts = [Shift(**{name: row[name] for name in names if name in row}) for row in rows]
    target = next(s.split for s in shifts if s.split != SOURCE)
    return advice(shifts, target).sentence


def compute(saved: Saved, number: Number, split: str, grid: Grid) -> None:
    """Write the values of one of Figures 7-10, or of label shifts, into the run's folder.

    Raises:
        InputError: if the model or the data do not serve.
    """
    from abra_wilds.analysis.batch_size import batch_size_curve
    from abra_wilds.analysis.bn_shift import bn_shift
    from abra_wilds.analysis.embeddings import embedded
    from abra_wilds.analysis.label_shift import label_shift
    from abra_wilds.analysis.saved import write_rows

    jobs: Mapping[Number, Callable[[], Sequence[Any]]] = {
        7: lambda: batch_size_curve(saved, split, draws=grid.draws),
        8: lambda: bn_shift(saved, split),
        9: lambda: embedded(saved, (SOURCE, split)),
        10: lambda: embedded(saved, (SOURCE, split), adapted=True),
        SHIFT: lambda: label_shift(saved, split, grid),
    }
    write_rows(saved, COMPUTED[number], jobs[number]())


def save(made: Made, number: Number, folder: Path) -> None:
    """Write the files of a figure and say so.

    Raises:
        InputError: if the folder cannot be made.
    """
    make_out(folder)
    save_figure(made.figure, made.values, folder, made.name)
    if made.page is not None:
        write_text(folder / f"{made.name}.md", made.page)
    kinds = ".png, .svg, .csv" if made.page is None else ".png, .svg, .csv, .md"
    print(f"Figure {number}: {folder / made.name}{kinds}", made.sentence or "")


def computed(
    checkpoint: Path, numbers: Sequence[Number], args: argparse.Namespace, grid: Grid
) -> dict[Number, str]:
    """Compute the values of some figures from a model; returns why any of them could not be.

    Raises:
        InputError: if the model cannot be opened, or lies where no figure looks for it.
    """
    from abra_wilds.analysis.saved import open_saved

    if args.runs.resolve() not in checkpoint.resolve().parents:
        raise InputError(f"--checkpoint {checkpoint} does not lie in {args.runs}; give RUNS that holds it")
    flags = {} if args.root_dir is None else {"root_dir": str(args.root_dir)}
    saved = open_saved(checkpoint, flags, args.tta_group)
    failed: dict[Number, str] = {}
    for number in numbers:
        try:
            compute(saved, number, args.split, grid)
        except InputError as fault:
            failed[number] = str(fault)
    return failed
