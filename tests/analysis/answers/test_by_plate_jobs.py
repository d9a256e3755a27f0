"""`--by_plate` shared by processes: jobs of Slurm, ranks of torchrun, and commands that are killed."""

import json
import sys
import time
from argparse import Namespace

import pandas as pd
import pytest

from abra_wilds.__main__ import main
from abra_wilds.analysis.answers.units import Unit, in_turn
from abra_wilds.board.sweep import slurm
from tests import clusters, runs
from tests.analysis.answers import made

BENCHMARKS = runs.REPOSITORY / "examples" / "benchmarks"


@pytest.fixture
def pair(tmp_path):
    """A screen of six plates, and the words that predict it by a network that a process of its own knows."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from bench_predict import write_model
    finally:
        sys.path.remove(str(BENCHMARKS))
    made.write(tmp_path / "plate", made.rows_of([f"b{letter}" for letter in "PQRSTU"]))
    small = {"model": "resnet18", "size": 32, "side": 16, "depth": 16, "classes": 3, "channels": 5}
    write_model(tmp_path / "model", Namespace(**small))
    words = ["predict", tmp_path / "model", "--screen", tmp_path / "plate", "--unlabelled", "--by_plate"]
    return [*map(str, words), "--device", "cpu", "--loader_kwargs", "num_workers=0"]


def assert_whole(out, calm):
    """All six plates are there, as one process left them."""
    assert len(list((out / "sites").glob("*.parquet"))) == 6
    pd.testing.assert_frame_equal(pd.read_parquet(out / "sites"), pd.read_parquet(calm / "sites"))
    assert "scores" in json.loads((out / "config.json").read_text())


def test_each_process_asks_for_its_own_plates_first_and_then_for_all():
    units = [Unit(str(k), None) for k in range(7)]
    for world in (1, 2, 3):
        orders = [[int(unit.name) for unit in in_turn(units, rank, world)] for rank in range(world)]
        assert all(sorted(order) == list(range(7)) for order in orders)
        assert len({order[0] for order in orders}) == world
        for rank, order in enumerate(orders):
            own = [k for k in range(7) if k % world == rank]
            assert order[: len(own)] == own


def test_slurm_gets_as_many_jobs_of_the_same_command_as_asked_for(tmp_path, monkeypatch, capsys):
    import cloudpickle

    pytest.importorskip("submitit")
    kept = clusters.stand_in(tmp_path, monkeypatch)
    words = ["predict", "model", "--screen", "plates.csv", "--out", str(tmp_path / "out"), "--by_plate"]
    asked = ["--slurm", "time=90", "partition=long", "--jobs", "3", "--tta", "plate_bn"]
    assert main([*words, *asked]) == 0
    assert "submitted 42_0, 42_1, 42_2" in capsys.readouterr().out
    options = {line for line in kept.read_text().splitlines() if line.startswith("#SBATCH")}
    wanted = ["time=90", "partition=long", "gpus-per-node=1", "array=0-2%3"]
    assert {f"#SBATCH --{option}" for option in wanted} <= options
    job = cloudpickle.loads(next((tmp_path / "out" / slurm.FOLDER).glob("*.pkl")).read_bytes()).function
    assert job.command == [sys.executable, "-m", "abra_wilds", *words, "--tta", "plate_bn"]
    assert job.folder == str(runs.REPOSITORY)


def test_jobs_that_cannot_be_are_a_sentence(tmp_path, capsys):
    words = ["predict", "model", "--screen", "plates.csv", "--by_plate"]
    assert "--slurm needs a folder" in runs.sentence(capsys, main, [*words, "--slurm", "time=5"])
    words += ["--out", str(tmp_path / "out")]
    assert "time=MINUTES" in runs.sentence(capsys, main, [*words, "--slurm"])
    argv = [*words, "--slurm", "time=5", "--jobs", "0"]
    assert "--jobs must be 1 or more" in runs.sentence(capsys, main, argv)


@pytest.mark.slow
def test_jobs_and_ranks_leave_what_one_process_leaves(pair, tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as many in all processes, so that sums come out alike
    assert runs.process("-m", "abra_wilds", *pair, "--out", tmp_path / "calm").returncode == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = runs.process(*torchrun, "-m", "abra_wilds", *pair, "--out", tmp_path / "ranks")
    assert done.returncode == 0, done.stderr
    assert_whole(tmp_path / "ranks", tmp_path / "calm")
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=5)
    monkeypatch.setattr(slurm, "slurm_executor", lambda folder, parameters: executor)
    assert main([*pair, "--out", str(tmp_path / "out"), "--slurm", "time=5", "--jobs", "2"]) == 0
    config, end = tmp_path / "out" / "config.json", time.monotonic() + 300
    while not config.exists() or "scores" not in config.read_text():
        assert time.monotonic() < end
        time.sleep(0.2)
    assert_whole(tmp_path / "out", tmp_path / "calm")


@pytest.mark.slow
def test_killed_processes_leave_every_plate_once_and_memory_does_not_grow(tmp_path):
    """A small run of the benchmark, whose exit code says whether anything was wrong."""
    sizes = ["--plates", 16, "--few", 4, "--kills", 3, "--json", tmp_path / "found.json"]
    done = runs.process(BENCHMARKS / "many_plates.py", *sizes)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["storm"]["kills"] == 3 and all(found["checks"].values())
    assert found["memory_ratio"] < 1.05 and found["storm"]["rewritten"] == []
