"""--shuffle_labels: training images have each other's labels, others keep theirs, and nothing is learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.board.terms import differing_terms, terms_of
from abra_wilds.data.datasets.catalogue import split_subset
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.engine.setup import open_dataset, open_evaluation, prepare
from abra_wilds.results.records import RESULTS, read_records
from abra_wilds.results.significance import agreement
from abra_wilds.simulate import preset, simulate
from tests import runs
from tests.data.own.own_tables import SHARED

TO_EXPERIMENTS = {"tta_group": "experiment", "tta_min": 2}
ADAPTERS = ({}, {"tta": "plate_bn", **TO_EXPERIMENTS}, {"tta": "eb_bn", **TO_EXPERIMENTS})
LEVEL = 1e-6  # of each test: all of this file together raise no false alarm in 10,000 seeds
SMALL = {
    **{"classes": 8, "image_size": 40, "replicates": 8, "batch_effect": 0.5},
    "train_experiments": (2, 2, 0, 0),
    "val_experiments": (1, 0, 0, 0),
    "test_experiments": (1, 1, 0, 0),
}


def test_training_has_the_same_labels_in_another_order_and_other_splits_keep_theirs(tiny, sim_root, tmp_path):
    seed = {"shuffle_labels": 3}
    whole = prepare(run_config("ERM", **runs.settings(sim_root, tmp_path, "ERM")))
    config = run_config("ERM", **runs.settings(sim_root, tmp_path, "ERM", **seed))
    for data in (prepare(config), open_evaluation(config)):
        true, given = whole.subsets["train"].y_array, data.subsets["train"].y_array
        assert torch.equal(given, true[np.random.default_rng(3).permutation(len(true))])
        assert not torch.equal(given, true)
        for split in ("val", "test", "id_test"):
            assert torch.equal(data.subsets[split].y_array, whole.subsets[split].y_array)
        assert any("--shuffle_labels 3" in line for line in data.data_lines())
    rows, labels = (
        torch.cat([getattr(of(batch), name) for batch in prepare(config).train_loader])
        for of, name in ((lambda b: b, "rows"), (lambda b: b.target, "y"))
    )
    assert len(rows) and torch.equal(labels, given[rows])


def test_a_shuffled_row_is_tested_against_no_other(tmp_path):
    shuffled, plain = (
        terms_of(run_config("ERM", **seed).values(), "") for seed in ({"shuffle_labels": 0}, {})
    )
    assert differing_terms(shuffled, plain) == ["shuffle_labels"]


def test_the_script_tells_agreement_and_chance_of_runs_and_refuses_those_with_their_labels(
    tiny, sim_root, tmp_path
):
    for name, seed in (("shuffled", {"shuffle_labels": 0}), ("plain", {})):
        fit(
            run_config(
                "ERM", **runs.settings(sim_root, tmp_path / name, "ERM", n_epochs=1, save_model=False, **seed)
            )
        )
    script = "examples/benchmarks/methods/at_chance.py"
    said = runs.process(script, tmp_path / "shuffled")
    _, line = said.stdout.splitlines()
    _, tta, n, right, chance, p = line.split()
    (record,) = (
        r
        for r in read_records(tmp_path / "shuffled" / RESULTS)
        if (r.split, r.checkpoint) == ("test", "last")
    )
    assert (tta, int(n), float(right)) == ("none", record.n, pytest.approx(record.acc, abs=5e-4))
    assert 0 < float(chance) < 0.5 and said.returncode == int(float(p) < 1e-3)
    refused = runs.process(script, tmp_path / "plain")
    assert refused.returncode == 2 and "--shuffle_labels" in refused.stderr


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Settings of runs on a small simulated screen that a small network learns."""
    root = tmp_path_factory.mktemp("simulated")
    simulate(
        root,
        preset("mini", **SMALL),
        workers=1,
    )
    return {"root_dir": str(root), "model": "timm:test_resnet", "n_epochs": 6}


@pytest.fixture(scope="module")
def mitocheck(tiny):
    """Settings of runs on half of the six commonest phenotypes, with dates left out to test."""
    if not SHARED.is_dir():
        pytest.skip("../shared/real is not here")
    table = SHARED / "mitocheck" / "load_data.csv"
    named = {"label_column": "Metadata_Phenotype", "keep_together": "Metadata_Frame", "least_per_class": 150}
    screen = {"dataset": "screen", "screen": str(table), "split": ["test=0.25", "seed=0"], **named}
    return {**screen, "root_dir": None, "frac": 0.5, "n_epochs": 4}


def predictions(folder, algorithm, flags):
    """Predicted and true classes of test after training, for each of ADAPTERS."""
    flags = {"batch_size": 32, "lr": 3e-3, "warmup_epochs": 0.5, "groupby_fields": ["experiment"], **flags}
    flags |= {"evaluate_all_splits": False, "save_model": False}
    config = run_config(algorithm, **runs.settings(None, folder / "run", algorithm, **flags))
    fit(config)
    (model,) = (folder / "run").glob("*epoch:last_model.pth")
    y = split_subset(open_dataset(config), "test", config.data.frac).y_array.numpy()
    for k, adapter in enumerate(ADAPTERS):
        (record,) = predict_saved(model, ["test"], folder / str(k), adapter)
        yield np.loadtxt(folder / str(k) / record.predictions, dtype=int), y


def p_of_chance(predicted, y):
    """Of the exact binomial test that predictions agree with classes as often as independent ones would."""
    return agreement(predicted.tolist(), y.tolist())[2]


@pytest.mark.slow
@pytest.mark.parametrize("screen", ["simulated", "mitocheck"])
def test_with_shuffled_labels_methods_and_adapters_are_at_chance_on_new_bio_batches(
    screen, tmp_path, request
):
    flags = request.getfixturevalue(screen)
    learned = [p_of_chance(*found) for found in predictions(tmp_path / "learns", "ERM", flags)]
    assert max(learned) < LEVEL, "with its labels the screen must be learned, or this test could not fail"
    for algorithm in ("ERM", "ABRA", "deepCORAL"):
        found = predictions(tmp_path / algorithm, algorithm, {**flags, "shuffle_labels": 0})
        assert min(p_of_chance(*of) for of in found) >= LEVEL, algorithm
