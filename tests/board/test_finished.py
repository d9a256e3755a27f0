"""abra_wilds/results/finished.py: unfinished runs and adaptations of older models are given and refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from abra_wilds.commands.board.bundle import main as bundle_main
from abra_wilds.commands.board.figures import main as figures_main
from abra_wilds.commands.board.report import main as report_main
from abra_wilds.commands.board.tables import main as tables_main
from abra_wilds.errors import InputError
from abra_wilds.recipes.resolve import run_config
from abra_wilds.results.finished import all_entries
from abra_wilds.results.legacy import broken_off
from abra_wilds.results.records import RESULTS, read_records
from abra_wilds.results.runs import find_runs
from tests import runs as tiny
from tests.board.boards import ADAPTED, change_records, finish, make_run, make_runs


@pytest.fixture(scope="module")
def record(screen, tmp_path_factory):
    """Any record of a last epoch."""
    folder = make_run(screen, tmp_path_factory.mktemp("any") / "r", 0)
    return replace(read_records(folder / RESULTS)[0], checkpoint="last")


@pytest.mark.parametrize(
    ("algorithm", "flags", "last"),
    [
        ("ERM", {"n_epochs": 3}, 2),
        ("SimCLR", {"n_epochs": 3, "simclr_probe_epochs": 4}, 6),
        ("IRMX", {"n_epochs": 3, "irmx_head_epochs": 2}, 4),
        ("IRMX-PAIR", {"n_epochs": 0, "irmx_pair_head_epochs": 2}, 1),
        ("IID-lite", {"n_epochs": 3, "iid_lite_pretrain_epochs": 2}, 2),
    ],
)
def test_a_run_is_finished_by_a_record_of_the_last_of_all_its_epochs(record, algorithm, flags, last):
    values = run_config(algorithm, root_dir="data", log_dir="r", **flags).values()
    assert not broken_off(values, [replace(record, epoch=last)])
    assert broken_off(values, [replace(record, epoch=last - 1)])
    assert broken_off(values, [replace(record, epoch=last, checkpoint="best")]) and broken_off(values, [])


@pytest.mark.parametrize("local", ["save_last", "save_pred"])
def test_runs_that_leave_no_record_of_their_last_epoch_count_as_finished(record, local):
    values = run_config("ERM", root_dir="data", log_dir="r").values()
    best = [replace(record, checkpoint="best")]
    assert broken_off(values, best) and not broken_off({**values, local: False}, best)


def test_runs_of_a_checkout_and_those_that_evaluate_nothing_count_as_finished(record):
    values = run_config("ERM", root_dir="data", log_dir="r").values()
    best = [replace(record, checkpoint="best")]
    assert not broken_off({**values, "loop": "WILDS 2.0 at 0123abc"}, best)
    assert not broken_off({**values, "evaluate_all_splits": False}, [])
    assert broken_off({**values, "evaluate_all_splits": False}, best)


@pytest.fixture
def half(screen, tmp_path):
    """Runs of which seed 1 was scored by --eval_only in the middle of its training."""
    folder = make_runs(screen, tmp_path / "runs", n_epochs=10, save_last=True, **ADAPTED)
    for seed in (0, 2):
        finish(folder / f"seed{seed}", 9)
    return folder


def test_tables_figures_reports_and_bundles_refuse_an_unfinished_run(half, tmp_path, refused_bundle, capsys):
    said = ["seed1 is not finished", "--resume"]
    tiny.assert_says(refused_bundle(half), *said)
    tiny.assert_says(refused_bundle(half, "--tta", "plate_bn", "--non_standard"), *said)
    assert tables_main([str(half)]) == report_main([str(half), "--out", str(tmp_path / "r.html")]) == 2
    assert figures_main([str(half), "--out", str(tmp_path / "f"), "--figure", "5"]) == 1
    for line in capsys.readouterr().err.splitlines():
        tiny.assert_says(line, *said)
    finish(half / "seed1", 9)
    assert bundle_main([str(half), "--out", str(tmp_path / "b.zip")]) == 0
    assert len(all_entries(find_runs(half))) == 3 * 3 * 3


def test_an_adaptation_alone_does_not_make_a_run_finished(half):
    (half / "seed1" / RESULTS).unlink()
    with pytest.raises(InputError, match="seed1 is not finished"):
        all_entries(find_runs(half))


def test_a_run_without_any_record_is_no_fault(screen, tmp_path):
    folder = make_runs(screen, tmp_path, (0, 1), save_last=True, n_epochs=10)
    finish(folder / "seed0", 9)
    (folder / "seed1" / RESULTS).unlink()
    assert {e.run.seed for e in all_entries(find_runs(folder))} == {0}


def test_an_adaptation_of_an_older_best_model_is_refused_with_both_epochs(three, refused_bundle, refused):
    change_records(three / "seed1" / "tta_plate_bn", "test", epoch=3)
    said = ["seed1/tta_plate_bn", "test", "best", "epoch 3", "epoch 8", "remove rxrx1", "predict again"]
    tiny.assert_says(refused_bundle(three, "--tta", "plate_bn", "--non_standard"), *said)
    tiny.assert_says(refused(tables_main, three), *said)
    change_records(three / "seed1", "test", checkpoint="7")
    assert all_entries(find_runs(three))


def test_the_last_of_several_adaptations_is_what_counts(three):
    folder = three / "seed1" / "tta_plate_bn"
    newer = (folder / RESULTS).read_text()
    change_records(folder, epoch=3)
    (folder / RESULTS).write_text((folder / RESULTS).read_text() + newer)
    assert {e.record.epoch for e in all_entries(find_runs(three)) if e.folder == folder} == {8}
