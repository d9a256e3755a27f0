"""Run folders of three methods with chosen accuracies, for tests of leaderboard/tables.py."""

from __future__ import annotations

from abra_wilds.board.tables import build as tables
from abra_wilds.results.runs import find_runs
from tests.board.boards import ADAPTED, change_records, make_run

ACCS = {  # accuracy over all images of test by seed 0, 1, 2; the second row is adapted
    "ERM": ((0.300, 0.310, 0.305), (0.400, 0.420, 0.405)),
    "ABRA": ((0.330, 0.345, 0.325), (0.435, 0.440, 0.430)),
    "MixStyle": ((0.310, 0.350, 0.290), (0.410, 0.430, 0.460)),
}


def set_acc(folder, acc):
    """Give a folder's test records an accuracy, and each cell line another."""
    cells = {c: acc + i / 100 for i, c in enumerate(("HEPG2", "HUVEC", "RPE", "U2OS"))}
    change_records(folder, "test", acc=acc, acc_by_cell=cells)


def make_methods(screen, folder):
    """Three methods with and without adaptation, whose folders are not in the order of seeds."""
    for method, (own, adapted) in ACCS.items():
        for seed in (0, 1, 2):
            run = make_run(screen, folder / method / f"{9 - seed}", seed, algorithm=method, **ADAPTED)
            set_acc(run, own[seed])
            set_acc(run / "tta_plate_bn", adapted[seed])
    return folder


def built(folder, number, **more):
    (table,) = tables.build_tables(find_runs(folder), [number], **more)
    return table


def row_of(table, method, tta=None):
    (row,) = [r for r in table.rows if r.key == (method, tta)]
    return row
