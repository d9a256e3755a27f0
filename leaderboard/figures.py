"""Figures 5-10 of the ABRA paper from run folders, each as .png, .svg and its values as .csv.

    python leaderboard/figures.py logs --out figures
    python leaderboard/figures.py logs --out figures --figure 7 8 --checkpoint logs/ABRA/rxrx1_..._model.pth

Figures 5 and 6 come from records. Those of Figures 7-10 are computed from saved models, which needs torch and
the images, and kept in the folder `analysis` of the model's run; without --checkpoint what lies there is
drawn. Every figure that cannot be made is named with the reason, and the exit code is then 1.

5: insertion points of ABRA (--abra_at). 6: terms of its loss (--abra_terms). 7: accuracy against inference
batch size. 8: shift of batch-norm statistics, and whether adaptation is advisable. 9: embeddings by the
model's own statistics. 10: embeddings by the statistics of each bio-batch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations import ablation
from choice import add_runs, chosen_runs
from drawings import draw_bars, draw_batch_sizes, draw_points, draw_shift
from figure_style import Table, save_figure
from figure_values import COMPUTED, refuse_unlike, values_of
from matplotlib.figure import Figure
from runs import Run

from abra_wilds.analysis.advice import SOURCE, Shift, advice
from abra_wilds.errors import InputError
from abra_wilds.eval_config import TTA_GROUPS
from abra_wilds.files import make_out
from abra_wilds.terminal import Parser, guarded

if TYPE_CHECKING:
    from abra_wilds.analysis.saved import Saved

ABLATIONS = {
    5: ("abra_at", "Where ABRA shifts representations", "insertion points"),
    6: ("abra_terms", "Terms of ABRA's loss", "terms"),
}
NUMBERS = (*ABLATIONS, *COMPUTED)


@dataclass(frozen=True)
class Made:
    """A figure and what it shows.

    Attributes:
        name: of its files.
        figure: the figure.
        values: its numbers, one row each.
        sentence: what it says, where it says something in words.
    """

    name: str
    figure: Figure
    values: Table
    sentence: str | None = None


def figures_of(runs: Sequence[Run], number: int) -> Iterator[Made]:
    """The figures of a number, from records and from values computed earlier.

    Args:
        runs: of which.
        number: 5 to 10.

    Raises:
        InputError: if there is nothing to make it of.
    """
    if number in ABLATIONS:
        flag, title, xlabel = ABLATIONS[number]
        bars = ablation(runs, flag)
        yield Made(f"figure_{number}", draw_bars(bars, title, xlabel), [asdict(bar) for bar in bars])
        return
    found = values_of(runs, number)
    if number == 7:
        rows = [row for values in found for row in values.rows]
        refuse_unlike(rows)
        yield Made("figure_7", draw_batch_sizes(rows), rows)
        return
    for values in found:
        name = f"figure_{number}_{values.name}"
        if number == 8:
            sentence = advised(values.rows)
            yield Made(name, draw_shift(values.rows, sentence), values.rows, sentence)
        else:
            yield Made(name, draw_points(values.rows), values.rows)


def advised(rows: Table) -> str:
    """The sentence about adaptation, from the values of Figure 8."""
    names = [f.name for f in fields(Shift)]
    shifts = [Shift(**{name: row[name] for name in names}) for row in rows]
    target = next(s.split for s in shifts if s.split != SOURCE)
    return advice(shifts, target).sentence


def compute(saved: Saved, number: int, split: str, draws: int) -> None:
    """Write the values of one of Figures 7-10 into the run's folder.

    Raises:
        InputError: if the model or the data do not serve.
    """
    from abra_wilds.analysis.batch_size import batch_size_curve
    from abra_wilds.analysis.bn_shift import bn_shift
    from abra_wilds.analysis.embeddings import embedded
    from abra_wilds.analysis.saved import write_rows

    jobs: Mapping[int, Callable[[], Sequence[Any]]] = {
        7: lambda: batch_size_curve(saved, split, draws=draws),
        8: lambda: bn_shift(saved, split),
        9: lambda: embedded(saved, (SOURCE, split)),
        10: lambda: embedded(saved, (SOURCE, split), adapted=True),
    }
    write_rows(saved, COMPUTED[number], jobs[number]())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add_runs(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True, help="where the files go")
    parser.add_argument("--figure", type=int, nargs="+", choices=NUMBERS, default=NUMBERS, help="unset: all")
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", default=(), metavar="FILE", help="models of runs in RUNS"
    )
    parser.add_argument("--root_dir", metavar="ROOT", help="folder of the data; unset: as in the run")
    parser.add_argument("--split", default="test", metavar="NAME", help="that is compared with train")
    parser.add_argument(
        "--tta_group", choices=tuple(TTA_GROUPS), default="plate", help="what a bio-batch is to Figures 7-10"
    )
    parser.add_argument("--draws", type=int, default=10, help="random partitions of Figure 7")


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code.

    Raises:
        InputError: if there is no run, a model cannot be opened, or the files have no place.
    """
    if args.split == SOURCE:
        raise InputError("--split train would be compared with itself; name another split, such as test")
    runs, numbers = chosen_runs(args), list(dict.fromkeys(args.figure))
    failed: dict[int, str] = {}
    for checkpoint in args.checkpoint:
        failed |= computed(checkpoint, [n for n in numbers if n in COMPUTED and n not in failed], args)
    for number in numbers:
        try:
            if number in failed:
                raise InputError(failed[number])
            found = list(figures_of(runs, number))
        except InputError as fault:
            failed[number] = str(fault)
            print(f"Figure {number} was not made: {fault}", file=sys.stderr)
            continue
        for made in found:
            save(made, number, args.out)
    return 1 if failed else 0


def save(made: Made, number: int, folder: Path) -> None:
    """Write the files of a figure and say so.

    Raises:
        InputError: if the folder cannot be made.
    """
    make_out(folder)
    save_figure(made.figure, made.values, folder, made.name)
    print(f"Figure {number}: {folder / made.name}.png, .svg, .csv", made.sentence or "")


def computed(checkpoint: Path, numbers: Sequence[int], args: argparse.Namespace) -> dict[int, str]:
    """Compute the values of some figures from a model; returns why any of them could not be.

    Raises:
        InputError: if the model cannot be opened, or lies where no figure looks for it.
    """
    from abra_wilds.analysis.saved import open_saved

    if args.runs.resolve() not in checkpoint.resolve().parents:
        raise InputError(f"--checkpoint {checkpoint} does not lie in {args.runs}; give RUNS that holds it")
    flags = {} if args.root_dir is None else {"root_dir": args.root_dir}
    saved = open_saved(checkpoint, flags, args.tta_group)
    failed = {}
    for number in numbers:
        try:
            compute(saved, number, args.split, args.draws)
        except InputError as fault:
            failed[number] = str(fault)
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    return guarded(lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
