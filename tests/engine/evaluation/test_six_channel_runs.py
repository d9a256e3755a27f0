"""Runs on six channels: scores beside WILDS', and splits without validation, where the last epoch counts."""

import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.data.datasets.catalogue import load_dataset, split_subset
from abra_wilds.engine.evaluation.results import evaluate_saved
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.engine.evaluation.scores import SCREEN_SCORES
from tests import runs
from tests.data.six import write_small_six

ERM = {"dataset": "rxrx1_6ch", "batch_size": 8, "warmup_epochs": 0}


@pytest.fixture(scope="module")
def six_root(tmp_path_factory):
    return write_small_six(tmp_path_factory.mktemp("six"))


@pytest.fixture(scope="module", autouse=True)
def tiny():
    patch = pytest.MonkeyPatch()
    runs.use_tiny_backbone(patch)
    yield
    patch.undo()


def config(root, folder, algorithm="ERM", **more):
    return run_config(algorithm, **runs.settings(root, folder, algorithm, **{**ERM, **more}))


@pytest.fixture(scope="module")
def official(six_root, tmp_path_factory):
    """A run without a validation, and its records."""
    folder = tmp_path_factory.mktemp("official")
    return folder, fit(config(six_root, folder, split_scheme="official"))


def test_without_a_validation_the_last_epoch_is_the_result(official):
    folder, records = official
    assert [(r.split, r.checkpoint, r.epoch) for r in records] == [("test", "last", 1)]
    assert not list(folder.glob("*best*")) and not list(folder.glob("val_*"))
    saved = runs.state(folder, dataset="rxrx1_6ch")
    assert saved["best_epoch"] == -1 and saved["best_val_metric"] is None


def test_its_last_model_is_what_eval_only_and_predict_take(official, six_root, tmp_path):
    folder, records = official
    again = evaluate_saved(config(six_root, folder, split_scheme="official", eval_only=True))
    (adapted,) = predict_saved(next(folder.glob("*_epoch:last_model.pth")), None, tmp_path / "out", {})
    assert again[0].predictions_sha256 == records[0].predictions_sha256 == adapted.predictions_sha256


def test_the_best_of_several_rates_cannot_be_picked_without_a_validation(six_root, tmp_path, capsys):
    argv = runs.command(six_root, tmp_path / "run", "SimCLR", **{**ERM, "split_scheme": "official"})
    said = runs.refusal(capsys, argv, tmp_path / "run")
    runs.assert_says(said, "SimCLR picks one of 5 learning rates", "official", "single rate")


def test_a_run_that_would_leave_nothing_is_refused(six_root, tmp_path, capsys):
    changes = {**ERM, "split_scheme": "official", "save_last": False}
    said = runs.refusal(capsys, runs.command(six_root, tmp_path / "run", "ERM", **changes), tmp_path / "run")
    runs.assert_says(said, "--save_last false", "official", "no val", "leave it out")


def test_one_rate_of_the_classifier_needs_no_validation(six_root, tmp_path):
    records = fit(
        config(six_root, tmp_path, "SimCLR", split_scheme="official", simclr_probe_rates=[0.1], n_epochs=1)
    )
    assert [(r.split, r.checkpoint) for r in records] == [("test", "last")]


def test_a_metric_that_would_pick_no_epoch_is_refused(six_root, tmp_path, capsys):
    changes = {**ERM, "split_scheme": "official", "val_metric": "acc_wg"}
    said = runs.refusal(capsys, runs.command(six_root, tmp_path / "run", "ERM", **changes), tmp_path / "run")
    runs.assert_says(said, "--val_metric would have no effect", "official", "leave it out")


@pytest.mark.parametrize(("algorithm", "more"), [("ERM", {}), ("SimCLR", {"n_epochs": 1})])
def test_records_and_csv_hold_the_screens_own_scores(six_root, tmp_path, algorithm, more):
    records = fit(config(six_root, tmp_path, algorithm, **more))
    for record in records:
        rows = runs.rows_of(tmp_path / f"{record.split}_eval.csv")
        row = next(row for row in rows if int(row["epoch"]) == record.epoch)
        assert record.acc_screen == {name: float(row[name]) for name in sorted(SCREEN_SCORES)}
    assert "acc_well" not in (tmp_path / "train_eval.csv").read_text()


def test_the_score_among_treatments_is_that_of_the_predictions_where_no_control_was_guessed(
    official, six_root
):
    folder, (record,) = official
    dataset = load_dataset("rxrx1_6ch", six_root, split_scheme="official")
    y_pred = torch.tensor([int(v) for v in (folder / record.predictions).read_text().split()])
    y = torch.as_tensor(split_subset(dataset, "test").y_array)
    of = torch.isin(y, dataset.treatments)
    share = float((y_pred == y)[of].double().mean())
    # With fewer classes to choose from, a treatment is found at least as often.
    assert share <= record.acc_screen["acc_treatments"] <= 1
