"""Figures 5-10 of the ABRA paper from run folders, each as .png, .svg and its values as .csv.

    python leaderboard/figures.py logs --out figures
    python leaderboard/figures.py logs --out figures --figure 7 8 --checkpoint logs/ABRA/rxrx1_..._model.pth
    python leaderboard/figures.py logs --out figures --figure shift --checkpoint logs/ERM/seed*/*_model.pth

Figures 5 and 6 come from records. Those of the others are computed from saved models, which needs torch and
the images, and kept in the folder `analysis` of the model's run; without --checkpoint what lies there is
drawn. Every figure that cannot be made is named with the reason, and the exit code is then 1.

5: insertion points of ABRA (--abra_at). 6: terms of its loss (--abra_terms). 7: accuracy against inference
batch size. 8: shift of batch-norm statistics, and whether adaptation is advisable. 9: embeddings by the
model's own statistics. 10: embeddings by the statistics of each bio-batch.

shift (not of the paper, and made only where it is named): accuracy of every test-time adaptation on draws
from each bio-batch whose classes follow Dirichlet(alpha), over models of the same method and settings; beside
it a page that says which of them cannot hurt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from abra_wilds.analysis.advice import SOURCE
from abra_wilds.analysis.shift_grid import ALPHAS, SIZES, Grid
from abra_wilds.board.extra import check_board_packages
from abra_wilds.board.figures.values import COMPUTED, FIGURES, SHIFT, Number
from abra_wilds.board.select import add_runs, chosen_runs
from abra_wilds.config.datasets import TTA_GROUPS
from abra_wilds.config.fields import path
from abra_wilds.errors import InputError
from abra_wilds.terminal import alone

MOST_DRAWS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add_runs(parser)
    parser.add_argument("--out", type=path, metavar="FOLDER", required=True, help="where the files go")
    parser.add_argument(
        "--figure",
        type=figure_of,
        nargs="+",
        choices=(*FIGURES, SHIFT),
        default=FIGURES,
        help="unset: 5 to 10",
    )
    parser.add_argument(
        "--checkpoint", type=path, nargs="+", default=(), metavar="FILE", help="models of runs in RUNS"
    )
    parser.add_argument("--root_dir", type=path, metavar="ROOT", help="of the data; unset: as in the run")
    parser.add_argument("--split", default="test", metavar="NAME", help="that is compared with train")
    parser.add_argument(
        "--tta_group",
        choices=tuple(TTA_GROUPS),
        default="plate",
        help="what a bio-batch is to all but 5 and 6",
    )
    parser.add_argument("--draws", type=int, default=10, help="random partitions of Figure 7, draws of shift")
    parser.add_argument(
        "--alphas", type=float, nargs="+", default=ALPHAS, help="of shift; inf: classes as they are"
    )
    parser.add_argument("--sizes", type=size, nargs="+", default=SIZES, help="images of a draw, or all")
    parser.add_argument(
        "--adapters",
        nargs="+",
        metavar="TTA",
        help="of shift, as --also_tta takes them; with controls where they say controls=; unset: all",
    )


def figure_of(text: str) -> Number:
    """The number of a figure, or its name."""
    return int(text) if text.isdecimal() else text


def size(text: str) -> int | None:
    """The images of a draw; None for all."""
    return None if text == "all" else int(text)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit code.

    Raises:
        InputError: if there is no run, a model cannot be opened, or the files have no place.
    """
    check_board_packages("figures")
    from abra_wilds.board.figures.build import computed, made_figures, save

    if args.split == SOURCE:
        raise InputError("--split train would be compared with itself; name another split, such as test")
    if not 1 <= args.draws <= MOST_DRAWS:
        raise InputError(f"--draws must be in [1, {MOST_DRAWS}]; got {args.draws}")
    grid = Grid(args.alphas, args.sizes, args.draws, args.adapters)
    runs, numbers = chosen_runs(args), list(dict.fromkeys(args.figure))
    failed: dict[Number, str] = {}
    for checkpoint in args.checkpoint:
        failed |= computed(checkpoint, [n for n in numbers if n in COMPUTED and n not in failed], args, grid)
    for number in numbers:
        try:
            if number in failed:
                raise InputError(failed[number])
            found = list(made_figures(runs, number))
        except InputError as fault:
            failed[number] = str(fault)
            print(f"Figure {number} was not made: {fault}", file=sys.stderr)
            continue
        for made in found:
            save(made, number, args.out)
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """`leaderboard/figures.py`: the same as a script."""
    return alone(__doc__, add_arguments, run, argv)
