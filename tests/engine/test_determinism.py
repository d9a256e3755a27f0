"""Acceptance 7: a run is a function of its settings and its seed, bit for bit on a CPU."""

import random

import numpy as np
import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.engine.fit import seed_epoch
from abra_wilds.engine.setup import build_method, prepare
from tests import runs


def run(root, folder, name, **changes):
    """A run of one epoch after another; {"last", "best", "csv"} of what it left."""
    fit(run_config(name, **runs.settings(root, folder, name, **{"log_every": 3, **changes})))
    seed = changes.get("seed", 0)
    found = {epoch: runs.comparable(runs.state(folder, epoch, seed)) for epoch in ("last", "best")}
    return {**found, "csv": runs.texts(folder)}


@pytest.fixture(scope="module")
def first(root, tiny, tmp_path_factory):
    """{method: what its run left}."""
    return {name: run(root, tmp_path_factory.mktemp(name), name) for name in runs.CORE}


@pytest.mark.parametrize("name", runs.CORE)
def test_two_runs_with_one_seed_are_bit_identical(root, tiny, first, tmp_path, name):
    assert runs.differences(run(root, tmp_path, name), first[name]) == []


@pytest.mark.parametrize("name", ["ABRA", "groupDRO"])
def test_the_number_of_worker_processes_does_not_enter(root, tiny, first, tmp_path, name):
    workers = run(root, tmp_path, name, loader_kwargs={"num_workers": 2})
    assert runs.differences(workers, first[name]) == []


@pytest.mark.parametrize("name", runs.CORE)
def test_another_seed_is_another_run(root, tiny, first, tmp_path, name):
    other = run(root, tmp_path, name, seed=1)
    weights = (found["last"]["algorithm"]["net.stages.res4.0.weight"] for found in (other, first[name]))
    assert not torch.equal(*weights)
    assert other["csv"]["train_eval.csv"] != first[name]["csv"]["train_eval.csv"]


def test_the_first_weights_depend_on_the_seed_alone(root, tiny, tmp_path):
    def head(seed, **changes):
        config = run_config("ABRA", **runs.settings(root, tmp_path, seed=seed, **changes))
        method = build_method(config, prepare(config).info)
        return torch.cat([method.head.weight, method.arc_weight]), method.net.stages["stem"][0].weight

    first, again, other = head(0), head(0, batch_size=4), head(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_what_ran_before_does_not_enter_and_global_generators_are_left_alone(root, tiny, first, tmp_path):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()
    again = run(root, tmp_path, "ABRA")
    assert runs.differences(again, first["ABRA"]) == []
    assert random.getstate() == before[0]
    assert runs.differences(np.random.get_state()[0::2], before[1][0::2]) == []
    assert (np.random.get_state()[1] == before[1][1]).all()


@pytest.mark.parametrize(
    "watching",
    [{"log_every": 1}, {"evaluate_all_splits": False}, {"save_step": 1}, {"no_group_logging": True}],
    ids=lambda change: next(iter(change)),
)
def test_watching_a_run_does_not_change_it(root, tiny, first, tmp_path, watching):
    """ABRA draws from torch's generator in each step, so that anything else drawn there would show."""
    watched = run(root, tmp_path, "ABRA", **watching)
    for found in (watched["last"], first["ABRA"]["last"]):
        found.pop("flops", None)  # diagnostics of a logged step are among them
    assert runs.differences(watched["last"], first["ABRA"]["last"]) == []


def test_each_epoch_and_each_rank_has_its_own_generators_and_rank_0_those_of_one_process():
    def drawn(*key):
        draws, rng = seed_epoch(*key)
        return torch.rand(()).item(), torch.rand((), generator=draws).item(), rng.random()

    values = [value for key in ((0, 0), (0, 1), (1, 0), (0, 1, 1)) for value in drawn(*key)]
    assert len(set(values)) == len(values)
    assert drawn(0, 1) == drawn(0, 1) == drawn(0, 1, 0)
