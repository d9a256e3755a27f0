"""What a run was, its files say: folders may be called anything."""

from __future__ import annotations

from abra_wilds.board.report.page import report
from abra_wilds.board.tables.formats import FORMATS
from abra_wilds.commands.board.bundle import main as bundle_main
from abra_wilds.results.runs import find_runs
from tests.board.boards import ADAPTED, make_runs
from tests.board.bundle.test_bundle import unpacked
from tests.board.report.report_boards import make_logs
from tests.board.tables.table_boards import built

NAMES = ("tta_mixed_bn_m1", "ERM", "plate_bn", "seed7", "x", "best", "none", "tta_none", "b128", "last", "w")


def rename(folder):
    """Call every folder below by a name that means something else, the innermost first."""
    names = iter(NAMES * 9)
    for path in sorted(folder.rglob("*"), key=lambda p: -len(p.parts)):
        if path.is_dir():
            path.rename(path.with_name(f"{next(names)}_{next(names)}_{len(path.name)}"))


def test_tables_and_bundle_are_the_same_whatever_folders_are_called(screen, tmp_path):
    folder = tmp_path / "runs"
    make_runs(screen, folder / "erm", algorithm="ERM", preset="paper", **ADAPTED)
    make_runs(screen, folder / "abra", seeds=range(5), algorithm="ABRA", preset="paper", **ADAPTED)
    before = [form(built(folder, 3)) for form in FORMATS.values()]
    abra, flags = folder / "abra", ("--tta", "plate_bn", "--non_standard", "--out")
    assert bundle_main([str(abra), *flags, str(tmp_path / "a.zip")]) == 0
    rename(abra)
    rename(folder)
    (abra,) = (p for p in folder.iterdir() if len(list(p.iterdir())) == 5)
    assert [form(built(folder, 3)) for form in FORMATS.values()] == before
    assert bundle_main([str(abra), *flags, str(tmp_path / "b.zip")]) == 0
    a, b = (unpacked(tmp_path / f"{name}.zip") for name in "ab")
    said = [file.pop("README.md").splitlines() for file in (a, b)]
    assert a == b and len(a) == 9
    # Commands alone name the model that they begin with.
    one, other = ([line for line in lines if not line.startswith(b"abra-wilds predict")] for lines in said)
    assert one == other


def test_a_report_is_the_same_whatever_folders_are_called(screen, tmp_path):
    folder = make_logs(screen, tmp_path / "runs")
    before = report(find_runs(folder), screen.root, tmp_path / "figures")
    names = {f"run{n}_tta_none": run.path.name for n, run in enumerate(find_runs(folder))}
    for new, old in names.items():
        (folder / old).rename(folder / new)
    after = report(find_runs(folder), screen.root, tmp_path / "figures")
    for new, old in names.items():
        after = after.replace(new, old)  # commands name the model that they begin with
    assert after == before
