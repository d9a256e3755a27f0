"""Every name of the table, in both channel counts, runs, resumes and writes every output."""

import json
from itertools import product

import numpy as np
import pytest

from abra_wilds import METHODS, fit, run_config
from abra_wilds.commands.train import main
from abra_wilds.engine import fit as fit_module
from abra_wilds.engine.evaluation.results import evaluate_saved
from abra_wilds.results.records import read_records
from tests import runs
from tests.data.six import write_small_six

WELLS = 6  # replicates that fill a plate of the six-channel screen with eight wells, as in the other one


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return write_small_six(tmp_path_factory.mktemp("six"), WELLS)


def break_off(argv):
    """Run the command, and interrupt it at the second batch of its second epoch."""
    original, taken = fit_module.step, [0]

    def breaking(method, *args, **kwargs):
        taken[0] += method.context.epoch == 1
        if taken[0] == 2:
            raise KeyboardInterrupt
        return original(method, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "step", breaking)
        assert main(argv) not in (0, 2)
    assert taken[0] == 2


def check(root, folder, dataset, name):
    """Run, run again in two parts, and hold what both left against each other and the documentation."""
    whole, parts = folder / "whole", folder / "parts"
    own = {"dataset": dataset, "log_every": 2}
    assert main(runs.command(root, whole, name, **own)) == 0
    assert runs.names_in(whole) == runs.files(dataset)

    break_off(runs.command(root, parts, name, **own))
    assert runs.state(parts, dataset=dataset)["epoch"] == 0
    assert main([*runs.command(root, parts, name, **own), "--resume"]) == 0
    states = [runs.comparable(runs.state(run, dataset=dataset)) for run in (parts, whole)]
    assert runs.differences(*states) == []
    assert runs.texts(parts) == runs.texts(whole)

    records = read_records(whole / "results.jsonl")
    assert {(r.checkpoint, r.split) for r in records} == set(product(("best", "last"), runs.SPLITS))
    for r in records:
        assert r.method == name and r.dataset == dataset and 0 <= r.acc <= 1
        assert r.consumed["steps"] == states[1]["steps"] and r.consumed["forward_equivalents"] > 0
    algo = runs.rows_of(whole / "train_algo.csv")
    assert all(np.isfinite(float(row["objective"])) for row in algo)
    values = json.loads((whole / "config.json").read_text())["values"]
    assert values["algorithm"] == name and values["dataset"] == dataset

    best = {r.split: r.predictions_sha256 for r in records if r.checkpoint == "best"}
    settings = runs.settings(root, whole, name, **own, eval_only=True)
    assert {r.split: r.predictions_sha256 for r in evaluate_saved(run_config(name, **settings))} == best


@pytest.mark.parametrize("name", METHODS)
def test_it_runs_resumes_and_writes_every_output_on_three_channels(root, tiny, tmp_path, name):
    check(root, tmp_path, "rxrx1", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_it_runs_resumes_and_writes_every_output_on_six_channels(six, tiny, tmp_path, name):
    check(six, tmp_path, "rxrx1_6ch", name)


def test_a_method_that_learns_from_no_label_at_first_has_no_training_accuracy_then(root, tiny, tmp_path):
    changes = {"n_epochs": 2, "iid_lite_pretrain_epochs": 1}
    fit(run_config("IID-lite", **runs.settings(root, tmp_path, "IID-lite", **changes)))
    assert [int(row["epoch"]) for row in runs.rows_of(tmp_path / "train_eval.csv")] == [1]
    assert [int(row["epoch"]) for row in runs.rows_of(tmp_path / "val_eval.csv")] == [0, 1]


@pytest.mark.parametrize("name", ["SimCLR", "BYOL", "DINOv2"])
def test_self_supervision_logs_its_collapse_check_and_no_accuracy_of_a_classifier_it_does_not_have(
    root, tiny, tmp_path, name
):
    fit(run_config(name, **runs.settings(root, tmp_path, name, n_epochs=1, log_every=2)))
    rows = [row for row in runs.rows_of(tmp_path / "train_algo.csv") if row["epoch"] == "0"]
    assert all(0 < float(row["spread"]) < 2 and row["acc_avg"] == "" for row in rows)


def test_context_rows_count_in_no_training_accuracy(root, tiny, tmp_path):
    fit(run_config("CS-ARM-BN", **runs.settings(root, tmp_path, "CS-ARM-BN")))
    counts = [float(row["count"]) for row in runs.rows_of(tmp_path / "train_algo.csv")]
    assert sum(counts) == 2 * 64  # two epochs of 64 images, each learned from once
