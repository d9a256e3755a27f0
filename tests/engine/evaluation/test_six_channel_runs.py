"""Runs on six channels: scores beside WILDS', and splits without validation, where the last epoch counts."""

import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.data.datasets.catalogue import load_dataset, split_subset
from abra_wilds.engine.evaluation.results import evaluate_saved
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.engine.evaluation.scores import SCREEN_SCORES
from tests import runs

pytestmark = pytest.mark.usefixtures("tiny")
ERM = {"dataset": "rxrx1_6ch", "batch_size": 8, "warmup_epochs": 0}


def config(root, folder, algorithm="ERM", **more):
    return run_config(algorithm, **runs.settings(root, folder, algorithm, **{**ERM, **more}))


@pytest.fixture(scope="module")
def official(six_root, tiny, tmp_path_factory):
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


@pytest.mark.parametrize(
    ("algorithm", "changes", "named"),
    [
        ("SimCLR", {}, "5 learning rates"),  # of which none can be picked
        ("ERM", {"save_last": False}, "--save_last false"),  # which would leave nothing
        ("ERM", {"val_metric": "acc_wg"}, "--val_metric"),  # which would pick no epoch
    ],
)
def test_what_needs_a_validation_is_refused(six_root, tmp_path, refused, algorithm, changes, named):
    changes = {**ERM, "split_scheme": "official", **changes}
    runs.assert_says(
        refused(runs.command(six_root, tmp_path / "run", algorithm, **changes)), named, "official"
    )


def test_one_rate_of_the_classifier_needs_no_validation(six_root, tmp_path):
    changes = {"split_scheme": "official", "simclr_probe_rates": [0.1], "n_epochs": 1}
    records = fit(config(six_root, tmp_path, "SimCLR", **changes))
    assert [(r.split, r.checkpoint) for r in records] == [("test", "last")]


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
