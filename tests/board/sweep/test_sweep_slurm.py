"""Sweeps as jobs: what is handed to sbatch, what is refused, and that a job which has to go comes back."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from abra_wilds.board.sweep import build as sweep
from abra_wilds.board.sweep import slurm
from abra_wilds.board.sweep.state import FINISHED, RESUMES, RunState
from abra_wilds.commands.board.sweep import add_arguments
from abra_wilds.commands.board.sweep import main as sweep_main
from abra_wilds.errors import InputError
from tests import clusters, runs
from tests.board.sweep import sweeps


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    return clusters.stand_in(tmp_path, monkeypatch)


def arguments(words):
    """The command line of a sweep, read."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


def descendants(pid):
    """Every process below another."""
    by_thread = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(word) for path in by_thread for word in path.read_text().split()]
    return [*children, *(below for child in children for below in descendants(child))]


def test_the_script_asks_for_what_was_given_and_a_warning_before_the_end(stage, cluster, capsys):
    words = stage.words("--jobs", "3", "--slurm", "time=90", "partition=long", "cpus_per_task=8")
    words = [word for word in words if word not in ("--devices", "cpu")]
    assert sweep_main(words, sweeps.programs_of(stage.path)) == 0
    shown = capsys.readouterr().out
    assert "ERM seed 0: job 42_0" in shown and "ABRA (ours) seed 1: job 42_3" in shown
    options = {line for line in cluster.read_text().splitlines() if line.startswith("#SBATCH")}
    wanted = ["time=90", "partition=long", "cpus-per-task=8", "gpus-per-node=1", "array=0-3%3"]
    assert {f"#SBATCH --{option}" for option in [*wanted, "signal=USR2@90"]} <= options
    commands = [line for line in cluster.read_text().splitlines() if "srun" in line]
    assert len(commands) == 1 and "-m submitit.core._submit" in commands[0]
    assert stage.log("start") == []


def test_a_job_is_the_sweep_of_its_run_alone(stage):
    args = arguments(stage.words("--root_dir", "data", "--slurm", "time=1"))
    command = sweep.job_command(stage.run("ABRA (ours) seed 1"), args, sweeps.programs_of(stage.path))
    own = arguments(command[4:])
    assert (own.only, own.seeds, own.slurm, own.devices) == (["ABRA (ours)"], [1], None, ["cpu"])
    assert (own.spec, own.out, own.root_dir) == (stage.spec, stage.out, Path("data").resolve())


@pytest.mark.parametrize("pairs", [[], ["partition=a"], ["time=2:00:00"], ["time=1e3"]])
def test_a_job_without_minutes_is_refused(refused_sweep, pairs):
    runs.assert_says(refused_sweep("--slurm", *pairs), "--slurm", "time=MINUTES")


def test_what_is_no_pair_or_no_option_of_sbatch_is_refused(refused_sweep, cluster):
    runs.assert_says(refused_sweep("--slurm", "time"), "--slurm", "key=value", "time")
    runs.assert_says(refused_sweep("--slurm", "time=5", "color=red"), "--slurm", "color", "partition")
    assert not cluster.exists()


def test_without_slurm_or_submitit_the_sentence_says_what_to_do(refused_sweep, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        runs.assert_says(refused_sweep("--slurm", "time=5"), "submitit", "pip install 'abra-wilds[slurm]'")
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    runs.assert_says(refused_sweep("--slurm", "time=5"), "--slurm", "srun")


def test_a_job_fails_when_its_command_does(tmp_path):
    slurm.Job([sys.executable, "-c", ""])()
    with pytest.raises(RuntimeError, match="exit code 3"):
        slurm.Job([sys.executable, "-c", "raise SystemExit(3)"])()


@pytest.mark.slow
def test_a_job_that_has_to_go_is_submitted_again_and_resumes_its_run(stage, tmp_path):
    """The signal goes to every process of the job, as Slurm sends it."""
    submitit = pytest.importorskip("submitit")
    run = stage.run("ERM seed 0")
    stage.change(run.folder, wait=600)
    args = arguments(stage.words("--slurm", "time=5"))
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=5)
    (job,) = slurm.submit(executor, [sweep.job_command(run, args, sweeps.programs_of(stage.path))])
    sweeps.wait_for(lambda: run.folder.exists() and RunState(run).stage == RESUMES)
    stage.change(run.folder, wait=0)
    processes = descendants(int(job.job_id))
    assert len(processes) == 3
    for pid in reversed(processes):  # the last first, because the first stops the others
        os.kill(pid, signal.SIGUSR2)
    job.result()
    assert RunState(run).stage == FINISHED
    assert Counter(stage.log("start")) == {"ERM/seed0": 2} and stage.log("end") == ["ERM/seed0"]
    last = run.folder.with_name("seed0.log").read_text().splitlines()[-1]
    assert shlex.split(last)[-1] == "--resume"


def test_parameters_of_a_job_have_a_gpu_for_each_process_unless_given():
    assert slurm.read_parameters(["time=5"], 2) == {"time": 5, "gpus_per_node": 2}
    assert slurm.read_parameters(["time=5", "gpus_per_node=4"], 2)["gpus_per_node"] == 4
    assert slurm.read_parameters(["time=5"], 0) == {"time": 5}
    with pytest.raises(InputError):
        slurm.read_parameters(["=5"], 0)
