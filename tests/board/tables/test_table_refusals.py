"""leaderboard/tables.py: what is never averaged or compared, in one sentence, and nothing is written."""

from __future__ import annotations

import shutil
from argparse import Namespace

from abra_wilds.board.select import chosen_runs
from abra_wilds.commands.board.tables import main as tables_main
from abra_wilds.results.records import RESULTS
from tests.board.boards import change_records, make_run, make_runs
from tests.board.tables.table_boards import built, row_of, set_acc


def refused(capsys, tmp_path, *argv):
    """The sentence of a refusal; nothing is written."""
    assert tables_main([*map(str, argv), "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    return shown.err


def test_another_backbone_is_named_and_taken_when_asked_for(screen, tmp_path, capsys):
    make_runs(screen, tmp_path / "runs", algorithm="ERM", model="resnet18")
    said = refused(capsys, tmp_path, tmp_path / "runs", "--table", 3)
    assert said == (
        "error: no run belongs to Table 3 (rxrx1, official, resnet50); found rxrx1, official, resnet18; give "
        "other runs, or name their backbone by --backbone\n"
    )
    table = built(tmp_path / "runs", 3, backbones=["resnet18"])
    assert row_of(table, "ERM").backbone == "resnet18" and table.title.endswith("resnet18")
    assert "Where our backbone is another one, the published numbers are by resnet50." in table.notes


def test_runs_of_several_settings_are_refused_or_rows_of_their_own(mine, screen, tmp_path, capsys):
    make_run(screen, mine / "other", 0, algorithm="ABRA", lr=0.005)
    said = refused(capsys, tmp_path, mine)
    assert "differ in more than the seed: lr (" in said and said.endswith("by --split_settings\n")
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


def test_simulated_and_real_runs_never_share_a_table(mine, tmp_path, capsys):
    for folder in (mine / "ABRA").glob("*"):
        change_records(folder, simulated=False)
    assert "is on simulated data and" in refused(capsys, tmp_path, mine, "--table", 3)


def test_splits_of_different_sizes_are_refused(mine, tmp_path, capsys):
    change_records(mine / "ABRA" / "9", "test", n=7)
    assert "so they are of different data" in refused(capsys, tmp_path, mine, "--table", 3)


def test_a_seed_that_is_there_twice_is_refused(mine, tmp_path, capsys):
    shutil.copytree(mine / "ABRA" / "9", mine / "copy")
    assert "seed 0 of ABRA is there twice" in refused(capsys, tmp_path, mine)


def test_predictions_without_adaptation_beside_the_runs_own_count_once(mine, tmp_path, capsys):
    run = mine / "ABRA" / "9"
    (run / "tta_none").mkdir()
    shutil.copy(run / RESULTS, run / "tta_none" / RESULTS)
    assert row_of(built(mine, 3), "ABRA").seeds("Total") == (0, 1, 2)
    set_acc(run / "tta_none", 0.9)
    assert "seed 0 of ABRA is there twice" in refused(capsys, tmp_path, mine)


def test_an_unreadable_record_line_is_refused(mine, tmp_path, capsys):
    with (mine / "ABRA" / "9" / RESULTS).open("a") as file:
        file.write("{}\n")
    assert "line 4 of" in refused(capsys, tmp_path, mine)


def test_an_adaptation_that_is_none_is_refused(made, tmp_path, capsys):
    assert "--tta got 'plate_bn_experimnt'" in refused(
        capsys, tmp_path, made, "--table", 3, "--tta", "plate_bn_experimnt"
    )


def test_of_a_folder_of_several_sweeps_a_spec_takes_the_runs_of_its_own(mine, screen, tmp_path, capsys):
    for row, flags in {"ERM": {}, "CE": {"abra_terms": ["ce"]}, "ABRA": {}}.items():
        for seed in (0, 1):
            method = "ERM" if row == "ERM" else "ABRA"
            make_run(screen, tmp_path / "shared" / row / f"seed{seed}", seed, algorithm=method, **flags)
    spec = tmp_path / "spec.yaml"
    rows = "".join(f"\n- {{label: {row}, algorithm: {row}}}" for row in ("ERM", "ABRA", "IRM"))
    spec.write_text(f"seeds: [0, 1]\nrows:{rows}\n")
    assert "abra_terms" in refused(capsys, tmp_path, tmp_path / "shared", "--table", 3)
    assert tables_main([str(tmp_path / "shared"), "--spec", str(spec), "--table", "3"]) == 0
    capsys.readouterr()
    chosen = chosen_runs(Namespace(runs=tmp_path / "shared", spec=spec))
    assert [run.path.parent.name for run in chosen] == ["ERM", "ERM", "ABRA", "ABRA"]
    said = refused(capsys, tmp_path, mine, "--spec", spec)
    assert "holds no run of" in said and "give the --out of its sweep" in said


def test_an_empty_folder_a_table_that_the_paper_has_not_and_a_folder_that_is_a_file_are_refused(
    made, tmp_path, capsys
):
    (tmp_path / "empty").mkdir()
    assert "holds no run" in refused(capsys, tmp_path, tmp_path / "empty")
    assert "invalid choice: 7" in refused(capsys, tmp_path, made, "--table", 7)
    (tmp_path / "file").touch()
    assert tables_main([str(made), "--out", str(tmp_path / "file")]) == 2
    assert "cannot be made" in capsys.readouterr().err
