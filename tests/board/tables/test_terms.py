"""On equal terms: rows of every spec, and tests of tables that are refused where terms differ."""

from __future__ import annotations

import pytest

from abra_wilds.board.reproduce import predicting
from abra_wilds.board.sweep.plan import picks_epochs, places, plan, unequal
from abra_wilds.board.sweep.spec import read_spec
from abra_wilds.board.tables.formats import FORMATS
from abra_wilds.board.terms import COMPARED, EQUAL, NAMED, differing_terms
from abra_wilds.commands.board.sweep import main as sweep_main
from abra_wilds.errors import InputError
from abra_wilds.results.runs import read_entries, read_run
from tests.board import boards
from tests.board.boards import change_records, make_runs
from tests.board.tables.table_boards import built, row_of


@pytest.mark.parametrize("name", boards.SPECS)
def test_rows_of_a_spec_differ_in_what_they_declare_and_nothing_else(name, like_mitocheck):
    spec, used = read_spec(boards.SPECS[name]), set()
    terms = unequal(spec, places(None, like_mitocheck[name]))
    for row in spec.rows:
        found = terms[row.label]
        assert set(found) <= set(row.differs), f"{row.label} does not say why it differs in {found}"
        assert not set(found) & set(EQUAL), f"{row.label} could not be tested"
        used |= set(found)
    declared = {term: why for row in spec.rows for term, why in row.differs.items()}
    assert set(declared) == used and all(declared.values()) and set(declared) <= set(COMPARED)


@pytest.mark.parametrize("name", boards.SPECS)
def test_all_predictions_of_a_spec_share_their_statistics_and_the_rule_that_picks_an_epoch(
    name, like_mitocheck
):
    planned = plan(read_spec(boards.SPECS[name]), boards.Path("RUNS"), seeds=[0], screen=like_mitocheck[name])
    assert len({run.checkpoint for run in planned}) == 1
    assert {run.config.eval.bn_stats for run in planned} == {"precise"}
    for run in planned:
        for a in run.adaptations:
            own_val = a.name == run.config.eval.name or a.model == f"best_{a.name}"
            assert a.model == "last" if run.checkpoint == "last" else own_val
            assert run.checkpoint == "last" or picks_epochs(run.config)


def spec_of(folder, rows):
    """The file of a sweep of one seed."""
    (folder / "spec.yaml").write_text(f"name: x\nseeds: [0]\nrows: {rows}\n")
    return folder / "spec.yaml"


def test_a_sweep_names_what_a_row_does_not_declare(tmp_path, capsys):
    rows = "[{label: ERM, algorithm: ERM}, {label: Long, algorithm: ERM, settings: {n_epochs: 200}}]"
    assert sweep_main([str(spec_of(tmp_path, rows)), "--out", str(tmp_path / "runs"), "--dry_run"]) == 0
    assert "note: Long differs from ERM in --n_epochs" in capsys.readouterr().out


def two_methods(screen, folder, **of_abra):
    """Runs of ERM and ABRA that differ in what is given."""
    make_runs(screen, folder / "ERM", algorithm="ERM", preset="paper")
    make_runs(screen, folder / "ABRA", algorithm="ABRA", preset="paper", **of_abra)
    return folder


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"bn_stats": "running"}, "unlike ERM in batch-norm statistics"),
        ({"frac": 0.5}, "unlike ERM in --frac"),
    ],
)
def test_rows_on_unequal_terms_are_not_tested_and_say_why(screen, tmp_path, flags, said):
    table = built(two_methods(screen, tmp_path, **flags), 3)
    row = row_of(table, "ABRA")
    assert row.comparison.result is None and row.comparison.untested == said
    assert all(said in form(table).replace("\\", "") for form in FORMATS.values())


def test_rows_whose_epoch_was_picked_otherwise_are_not_tested(screen, tmp_path):
    folder = two_methods(screen, tmp_path)
    for seed in range(3):
        change_records(folder / "ABRA" / f"seed{seed}", picked_by="plate_bn")
    row = row_of(built(folder, 3), "ABRA")
    assert row.terms["epoch"] == "val by plate_bn"
    assert row.comparison.untested == "unlike ERM in choice of the epoch"


def test_seeds_whose_epoch_was_chosen_otherwise_are_no_row(screen, tmp_path):
    folder = two_methods(screen, tmp_path)
    change_records(folder / "ABRA" / "seed1", picked_by="plate_bn")
    shown = [row.terms["epoch"] for row in built(folder, 3).rows if row.key == ("ABRA", None)]
    assert sorted(shown) == ["own val", "val by plate_bn"]


def test_what_an_older_run_does_not_know_is_not_compared():
    assert differing_terms({"amp": None, "frac": 1.0}, {"frac": 1.0}) == []
    assert differing_terms({"amp": None, "frac": 1.0}, {"amp": "bf16", "frac": 0.5}) == ["frac", "amp"]


@pytest.mark.parametrize("term", ["bn_stats", "n_epoch"])
def test_what_a_test_needs_equal_cannot_be_declared_different(tmp_path, term):
    rows = f"[{{label: ERM, algorithm: ERM, differs: {{{term}: why}}}}]"
    with pytest.raises(InputError, match=f"differs of row 'ERM' .*'{term}'"):
        read_spec(spec_of(tmp_path, rows))


def test_an_adaptation_of_a_spec_need_not_repeat_what_its_run_has(tmp_path):
    rows = "[{label: AdaBN, config: adabn, tta: [{tta_batch_size: 64}]}]"
    (run,) = plan(read_spec(spec_of(tmp_path, rows)), tmp_path)
    (adaptation,) = run.adaptations
    assert adaptation.name == "plate_bn_b64" and adaptation.model == "best_plate_bn_b64"
    assert "plate_bn,batch_size=64" in run.words


def test_other_terms_are_named_under_the_table_and_tested(screen, tmp_path):
    table = built(two_methods(screen, tmp_path, n_epochs=50), 3)
    row = row_of(table, "ABRA")
    assert row.comparison.result is not None and {"n_epochs", "mix"} == set(row.comparison.differs) <= set(
        NAMED
    )
    (note,) = (note for note in table.notes if note.startswith("ABRA differs from ERM in"))
    assert "n_epochs 50 (not 100)" in note and "mix cutmix (not none)" in note


def test_records_without_what_picked_them_count_as_picked_by_their_run(screen, tmp_path):
    folder = tmp_path / "runs"
    make_runs(screen, folder, algorithm="ABRA", preset="paper", **boards.ADAPTED)
    table = built(folder, 3)
    assert row_of(table, "ABRA").terms["epoch"] == "own val"
    assert row_of(table, "ABRA", "plate_bn").terms["epoch"] == "val by none"


@pytest.mark.parametrize(("picked_by", "label"), [("plate_bn", "best_plate_bn"), ("none", "best")])
def test_the_command_of_an_adaptation_names_the_model_that_it_was_made_with(
    screen, tmp_path, picked_by, label
):
    flags = {"tta": "plate_bn", "adapted": {"tta": "plate_bn"}, "also_tta": ["plate_bn"]}
    folder = boards.make_run(screen, tmp_path / "run", 0, preset="paper", **flags)
    change_records(folder / "tta_plate_bn", picked_by=picked_by)
    run = read_run(folder)
    assert run.picks == ["plate_bn"]
    (entry,) = (e for e in read_entries(run, folder / "tta_plate_bn") if e.record.split == "test")
    assert f"rxrx1_seed:0_epoch:{label}_model.pth" in predicting(entry)
