"""leaderboard/tables.py: what is never averaged or compared, in one sentence, and nothing is written."""

from __future__ import annotations

import shutil
from argparse import Namespace

import pytest

from abra_wilds.board.select import chosen_runs
from abra_wilds.commands.board.tables import main as tables_main
from abra_wilds.results.records import RESULTS
from tests.board.boards import change_records, make_run, make_runs
from tests.board.tables.table_boards import built, row_of, set_acc
from tests.runs import assert_says


@pytest.fixture
def refused_table(refused, tmp_path):
    """The sentence with which tables are refused; nothing is written."""
    return lambda *argv: refused(tables_main, *argv, "--out", tmp_path / "out")


def test_another_backbone_is_named_and_taken_when_asked_for(screen, tmp_path, refused_table):
    make_runs(screen, tmp_path / "runs", algorithm="ERM", model="resnet18")
    said = ["Table 3 (rxrx1, official, resnet50)", "rxrx1, official, resnet18", "--backbone"]
    assert_says(refused_table(tmp_path / "runs", "--table", 3), *said)
    table = built(tmp_path / "runs", 3, backbones=["resnet18"])
    assert row_of(table, "ERM").backbone == "resnet18" and table.title.endswith("resnet18")
    assert "Where our backbone is another one, the published numbers are by resnet50." in table.notes


def test_runs_of_several_settings_are_refused_or_rows_of_their_own(mine, screen, refused_table):
    make_run(screen, mine / "other", 0, algorithm="ABRA", lr=0.005)
    assert_says(refused_table(mine), "lr (", "--split_settings")
    table = built(mine, 3, split_settings=True)
    rows = [r for r in table.rows if r.key == ("ABRA", None)]
    assert [(r.label, len(r.seeds("Total"))) for r in rows] == [("ABRA [lr 0.01]", 3), ("ABRA [lr 0.005]", 1)]
    assert all(r.published.accs["Total"] == (39.6, 0.2) for r in rows)


def test_several_settings_of_the_reference_leave_nothing_to_test_against(mine, screen):
    make_run(screen, mine / "other", 0, algorithm="ERM", lr=0.005)
    table = built(mine, 3, split_settings=True)
    assert row_of(table, "ABRA").comparison.untested == "2 rows of ERM"
    assert [r.comparison.untested for r in table.rows if r.key == ("ERM", None)] == [
        "one of 2 references"
    ] * 2
    assert row_of(table, "ABRA", "plate_bn").comparison.result.p is not None


BAD = {
    "simulated and real runs": (
        lambda t: [change_records(folder, simulated=False) for folder in (t / "ABRA").glob("*")],
        ["simulated data"],
    ),
    "splits of different sizes": (
        lambda t: change_records(t / "ABRA" / "9", "test", n=7),
        ["test", "ABRA/9"],
    ),
    "a seed twice": (lambda t: shutil.copytree(t / "ABRA" / "9", t / "copy"), ["seed 0 of ABRA", "copy"]),
    "a line that is no record": (
        lambda t: (t / "ABRA" / "9" / RESULTS).open("a").write("{}\n"),
        ["line 4", f"ABRA/9/{RESULTS}"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_never_averaged_or_compared_is_refused(mine, refused_table, case):
    damage, parts = BAD[case]
    damage(mine)
    assert_says(refused_table(mine, "--table", 3), *parts)


def test_predictions_without_adaptation_beside_the_runs_own_count_once(mine, refused_table):
    run = mine / "ABRA" / "9"
    (run / "tta_none").mkdir()
    shutil.copy(run / RESULTS, run / "tta_none" / RESULTS)
    assert row_of(built(mine, 3), "ABRA").seeds("Total") == (0, 1, 2)
    set_acc(run / "tta_none", 0.9)
    assert_says(refused_table(mine), "seed 0 of ABRA", "tta_none")


def test_of_a_folder_of_several_sweeps_a_spec_takes_the_runs_of_its_own(
    mine, screen, tmp_path, refused_table, capsys
):
    for row, flags in {"ERM": {}, "CE": {"abra_terms": ["ce"]}, "ABRA": {}}.items():
        for seed in (0, 1):
            method = "ERM" if row == "ERM" else "ABRA"
            make_run(screen, tmp_path / "shared" / row / f"seed{seed}", seed, algorithm=method, **flags)
    spec = tmp_path / "spec.yaml"
    rows = "".join(f"\n- {{label: {row}, algorithm: {row}}}" for row in ("ERM", "ABRA", "IRM"))
    spec.write_text(f"seeds: [0, 1]\nrows:{rows}\n")
    assert "abra_terms" in refused_table(tmp_path / "shared", "--table", 3)
    assert tables_main([str(tmp_path / "shared"), "--spec", str(spec), "--table", "3"]) == 0
    chosen = chosen_runs(Namespace(runs=tmp_path / "shared", spec=spec))
    assert [run.path.parent.name for run in chosen] == ["ERM", "ERM", "ABRA", "ABRA"]
    assert_says(refused_table(mine, "--spec", spec), str(spec), "--out")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--table", 7], ["--table", "7"]),
        (["--table", 3, "--tta", "plate_bn_experimnt"], ["--tta", "'plate_bn_experimnt'"]),
    ],
)
def test_flags_that_cannot_be_are_refused(made, refused_table, flags, parts):
    assert_says(refused_table(made, *flags), *parts)


def test_a_folder_without_runs_and_one_that_is_a_file_are_refused(made, tmp_path, refused, refused_table):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert_says(refused_table(tmp_path / "empty"), str(tmp_path / "empty"))
    assert_says(refused(tables_main, made, "--out", tmp_path / "file"), "--out", str(tmp_path / "file"))
