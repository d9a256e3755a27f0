"""Acceptance 3: our predictions, scored by the checkout's own evaluate.py, give our logged numbers."""

import json
import shutil

import numpy as np
import pytest

from abra_wilds.__main__ import main
from abra_wilds.commands.train import main as own_main
from abra_wilds.results.records import read_records
from tests import runs
from tests.harness.inside import line

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def own_runs(root, tiny, tmp_path_factory):
    """Folders of our own command's runs, one for each seed."""
    folders = [tmp_path_factory.mktemp("own") / f"seed{seed}" for seed in SEEDS]
    for seed, folder in zip(SEEDS, folders, strict=True):
        assert own_main(runs.command(root, folder, seed=seed, n_epochs=3, batch_size=4)) == 0
    return folders


@pytest.fixture
def scores(checkout, root, tmp_path):
    """What the checkout's evaluate.py says of the best epochs' predictions of three folders."""

    def scores(folders):
        predictions, out = tmp_path / "predictions", tmp_path / "scores"
        predictions.mkdir()
        out.mkdir()
        for folder in folders:
            for path in folder.glob("*_epoch:best_pred.csv"):
                shutil.copy(path, predictions)
        assert len(list(predictions.iterdir())) == 9
        script = ["--script", "evaluate.py", str(checkout.path), "--", str(predictions), str(out)]
        assert main(["wilds", *script, "--dataset", "rxrx1", "--root_dir", str(root)]) == 0
        return json.loads((out / "rxrx1_results.json").read_text())

    return scores


def logged(folder, split):
    """acc_avg in the row of the best epoch by validation, the first of equals."""
    best = max(runs.rows_of(folder / "val_eval.csv"), key=lambda row: float(row["acc_avg"]))
    rows = {row["epoch"]: row for row in runs.rows_of(folder / f"{split}_eval.csv")}
    return float(rows[best["epoch"]]["acc_avg"])


def assert_same(found, values):
    """Mean and standard deviation with ddof=1 of three seeds."""
    assert found["acc_avg"] == pytest.approx(np.mean(values), abs=1e-6)
    assert found["acc_avg_std"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)


def test_predictions_of_our_own_command_score_as_logged_and_as_recorded(scores, own_runs):
    found = scores(own_runs)
    assert set(found) == set(runs.SPLITS)
    for split in runs.SPLITS:
        values = [logged(folder, split) for folder in own_runs]
        assert_same(found[split], values)
        records = [read_records(folder / "results.jsonl") for folder in own_runs]
        recorded = [r.acc for rs in records for r in rs if r.split == split and r.checkpoint == "best"]
        assert recorded == pytest.approx(values, abs=1e-6)
    assert any(found[split]["acc_avg_std"] > 0 for split in runs.SPLITS)


@pytest.mark.parametrize("algorithm", ["ABRA", "abra:ERM"])
def test_predictions_of_runs_inside_the_checkout_score_as_logged(
    checkout, scores, root, tiny, tmp_path, algorithm
):
    folders = [tmp_path / f"seed{seed}" for seed in SEEDS]
    for seed, folder in zip(SEEDS, folders, strict=True):
        assert main(line(checkout.path, root, folder, algorithm, seed=seed, batch_size=4)) == 0
    found = scores(folders)
    for split in runs.SPLITS:
        assert_same(found[split], [logged(folder, split) for folder in folders])


def test_shuffled_predictions_would_score_otherwise(scores, own_runs, tmp_path):
    """So that the agreement above is one of rows, not of chance."""
    moved = [tmp_path / folder.name for folder in own_runs]
    for before, folder in zip(own_runs, moved, strict=True):
        folder.mkdir()
        for path in before.glob("*_epoch:best_pred.csv"):
            lines = path.read_text().splitlines()
            (folder / path.name).write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    found = scores(moved)
    values = {s: np.mean([logged(folder, s) for folder in own_runs]) for s in runs.SPLITS}
    assert any(abs(found[s]["acc_avg"] - values[s]) > 1e-3 for s in runs.SPLITS)


def test_a_missing_seed_is_not_passed_over(checkout, root, own_runs, tmp_path):
    for path in own_runs[0].glob("*_epoch:best_pred.csv"):
        shutil.copy(path, tmp_path)
    script = ["--script", "evaluate.py", str(checkout.path), "--", str(tmp_path), str(tmp_path)]
    with pytest.raises(FileNotFoundError, match="seed:1"):
        main(["wilds", *script, "--dataset", "rxrx1", "--root_dir", str(root)])
    assert not list(tmp_path.glob("*.json"))


def test_the_script_can_be_named_after_the_checkout_as_usage_says(checkout, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["wilds", str(checkout.path), "--script", "evaluate.py", "--", "--help"])
    assert ended.value.code == 0 and "predictions_dir" in capsys.readouterr().out
