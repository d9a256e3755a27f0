"""What a sweep makes of folders in which somebody has scored or predicted, and of screens of one site."""

from __future__ import annotations

import pandas as pd
import pytest

from abra_wilds.board.sweep.state import FINISHED, RESUMES, RunState, clear
from abra_wilds.commands.board.sweep import main as sweep_main
from abra_wilds.engine.evaluation.results import evaluate_saved
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.errors import InputError
from abra_wilds.recipes.flags import parse
from abra_wilds.results.files import sha256
from abra_wilds.results.finished import all_entries
from abra_wilds.results.records import RESULTS, read_records
from abra_wilds.results.runs import read_run
from tests import disks, runs
from tests.board import boards
from tests.board.sweep import sweeps
from tests.data.six import write_small_six


@pytest.fixture
def run(screen, stage):
    """A run of a sweep with an adaptation, as training and predict leave them."""
    run = stage.run("ABRA (ours) seed 0")
    sweeps.write_run(screen, run.folder, run)
    run.model.with_name("rxrx1_seed:0_epoch:last_model.pth").touch()
    sweeps.write_adapted(screen, run.folder / "tta_plate_bn", run)
    assert RunState(run).stage == FINISHED and not RunState(run).to_adapt
    return run


def keep_records(folder, which):
    """Leave those records of a folder that `which` says."""
    kept = [r for r in read_records(folder / RESULTS) if which(r)]
    (folder / RESULTS).unlink()
    boards.append_records(folder / RESULTS, kept)


def rewrite_config(run, *pairs):
    """Replace words of a run's config.json."""
    own = run.folder / "config.json"
    text = own.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    own.write_text(text)


def test_a_run_scored_in_the_middle_of_its_training_is_broken_off(run):
    rewrite_config(run, ('"finished": true', '"finished": false'))
    assert RunState(run).stage == RESUMES and RunState(run).lacking() == ["the end of its training"]


def test_a_run_of_an_older_version_is_finished_with_a_record_of_its_last_epoch_if_it_keeps_that(run):
    rewrite_config(run, ('"finished": true', '"was": true'))
    assert RunState(run).stage == FINISHED
    keep_records(run.folder, lambda r: r.checkpoint == "best")
    assert RunState(run).stage == RESUMES and RunState(run).lacking() == ["the end of its training"]
    rewrite_config(run, ('"save_last": true', '"save_last": false'))
    assert RunState(run).stage == FINISHED


@pytest.mark.parametrize("picked", [False, True])
def test_an_adaptation_of_an_older_best_model_is_to_be_made_anew(run, picked):
    (adaptation,) = run.adaptations
    if picked:
        run.model_of(adaptation.model).touch()
        rewrite_config(run, ('"finished": true', '"finished": true, "picked": {"plate_bn": 7}'))
        boards.change_records(run.folder / "tta_plate_bn", picked_by="plate_bn", epoch=7)
        assert not RunState(run).lacking_of(adaptation)
    boards.change_records(run.folder / "tta_plate_bn", "test", epoch=3)
    state = RunState(run)
    assert state.lacking_of(adaptation) == ["the record of test"] and state.to_adapt == [adaptation]
    with pytest.raises(InputError, match=r"tta_plate_bn .*epoch 3, .*epoch 7"):
        all_entries([read_run(run.folder)])


def test_an_adaptation_that_a_finished_run_did_not_let_pick_has_the_epoch_of_the_run(run):
    (adaptation,) = run.adaptations
    assert adaptation.model == "best_plate_bn" and RunState(run).model_for(adaptation) == "best"
    rewrite_config(run, ('"finished": true', '"finished": false'))
    assert RunState(run).model_for(adaptation) == "best_plate_bn"  # training leaves it


def test_an_adaptation_by_another_epoch_than_it_picked_is_to_be_made_anew(run):
    (adaptation,) = run.adaptations
    run.model_of(adaptation.model).touch()
    assert RunState(run).lacking_of(adaptation) == [f"the record of {split}" for split in run.splits]


def test_what_is_made_anew_replaces_predictions_of_its_checkpoint_alone(run):
    (adaptation,) = run.adaptations
    folder = run.folder / "tta_plate_bn"
    best, others = sorted(folder.glob("*best*_pred.csv")), {"log.txt": "said", "notes": "mine"}
    others |= {path.name.replace("epoch:best", "epoch:last"): "1\n" for path in best}
    for name, text in others.items():
        (folder / name).write_text(text)
    before = (folder / RESULTS).read_text()
    clear(run, adaptation)
    assert len(best) == 3 and not any(path.exists() for path in best)
    assert {p.name: p.read_text() for p in folder.iterdir()} == {**others, RESULTS: before}


@pytest.mark.parametrize(
    ("logged", "everything", "finished"),
    [
        (("val", "test"), True, True),
        (("val", "test", "id_test"), True, False),
        (("val", "test"), False, False),
        ((), True, False),
    ],
)
def test_id_test_is_asked_for_unless_the_logs_of_a_run_of_all_splits_know_none(
    run, logged, everything, finished
):
    (adaptation,) = run.adaptations
    for folder in (run.folder, run.folder / "tta_plate_bn"):
        keep_records(folder, lambda r: r.split != "id_test")
    for split in logged:
        (run.folder / f"{split}_eval.csv").touch()
    if not everything:
        rewrite_config(run, ('"evaluate_all_splits": true', '"evaluate_all_splits": false'))
    expected = [] if finished else ["the record of id_test"]
    assert RunState(run).lacking() == RunState(run).lacking_of(adaptation) == expected


ROWS = [{"label": "ERM", "algorithm": "ERM", "tta": [sweeps.REAL_TTA]}]


@pytest.mark.slow
def test_real_leftovers_are_gone_on_with_and_nothing_made_by_hand_is_lost(root, tmp_path, monkeypatch):
    runs.use_tiny_backbone(monkeypatch)
    words, (run,) = sweeps.real(root, tmp_path, ROWS, [0])
    assert sweep_main(words, sweeps.TINY) == 0
    last = run.model.with_name("rxrx1_seed:0_epoch:last_model.pth")
    adapted = run.folder / "tta_plate_bn_min2"
    (by_hand,) = predict_saved(last, ["test"], None, {**sweeps.REAL_TTA, "device": ("cpu",)})
    keep_records(adapted, lambda r: r.checkpoint == "last")
    (run.folder / RESULTS).unlink()
    rewrite_config(run, ('"finished": true', '"finished": false'))
    evaluate_saved(parse([*run.words, "--device", "cpu", "--eval_only"]))
    assert RunState(run).stage == RESUMES and RunState(run).to_adapt
    assert sweep_main(words, sweeps.TINY) == 0
    assert RunState(run).stage == FINISHED and not RunState(run).to_adapt
    assert by_hand in read_records(adapted / RESULTS)
    assert sha256(adapted / by_hand.predictions) == by_hand.predictions_sha256


@pytest.mark.slow
def test_a_real_run_on_one_site_is_finished_without_id_test(tmp_path, capsys):
    root = write_small_six(tmp_path / "six")
    (metadata,) = root.rglob("metadata.csv")
    rows = pd.read_csv(metadata)
    rows[rows["site"] == 1].to_csv(metadata, index=False)
    words, (run,) = sweeps.real(root, tmp_path, ROWS, [0], dataset="rxrx1_6ch")
    assert run.splits == ("val", "test", "id_test")
    assert sweep_main(words, sweeps.TINY) == 0, capsys.readouterr().err
    assert sweep_main(words, sweeps.TINY) == 0
    assert "1 runs, 1 finished before" in capsys.readouterr().out
    assert {r.split for r in read_records(run.folder / "tta_plate_bn_min2" / RESULTS)} == {"val", "test"}


def test_a_run_on_a_disk_without_colons_is_finished_and_its_predictions_are_made_anew(run):
    (adaptation,) = run.adaptations
    disks.rename_colons(run.folder)
    assert RunState(run).stage == FINISHED and not RunState(run).to_adapt
    assert "=" in run.model.name and run.model.exists()
    clear(run, adaptation)
    assert not list((run.folder / "tta_plate_bn").glob("*best*_pred.csv"))
    assert RunState(run).to_adapt == [adaptation]
