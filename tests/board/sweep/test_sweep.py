"""What a sweep starts, skips, resumes, refuses and reports; runs are stand-ins but in the last test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack

import pytest

from abra_wilds.board.sweep import build as sweep
from abra_wilds.board.sweep.build import device_slots
from abra_wilds.board.sweep.launch import VISIBLE, Launcher
from abra_wilds.board.sweep.state import BROKEN, FINISHED, NEW, RESUMES, RunState, lock_of, locked
from abra_wilds.commands.board.sweep import main as sweep_main
from abra_wilds.engine.artifacts.folder import LOCK
from abra_wilds.engine.evaluation.saved import changed
from abra_wilds.errors import InputError
from abra_wilds.recipes.flags import parse
from tests import runs
from tests.board import boards
from tests.board.sweep import sweeps


def test_every_row_and_seed_is_run_once_and_is_known_when_the_sweep_starts_again(stage, capsys):
    assert stage("--jobs", "2") == 0
    assert sorted(stage.log("start")) == sorted(stage.log("end")) == sorted(sweeps.ALL)
    assert stage() == 0
    assert "4 runs, 4 finished before" in capsys.readouterr().out
    assert len(stage.log("start")) == 6


def test_the_command_of_a_run_resolves_to_the_configuration_by_which_it_is_known(stage):
    for run in stage.planned:
        assert parse([*run.words, "--device", "cpu"]).digest() == run.config.digest()
        assert run.config.train.seed in (0, 1)
    run = stage.run("ABRA (ours) seed 1")
    assert run.adaptations[0].digest == changed(parse(run.words), {"tta": "plate_bn"}).digest()


def test_rows_and_seeds_can_be_chosen_and_a_dry_run_starts_nothing(stage, capsys):
    assert stage("--dry_run") == 0
    shown = capsys.readouterr().out
    assert stage.log("start") == [] and not stage.out.exists()
    assert shown.count("--log_dir") == 4 and "ABRA (ours) seed 1: new, then tta_plate_bn" in shown
    assert stage("--only", "ABRA (ours)", "--seeds", "1") == 0
    assert stage.log("start") == ["ABRA_ours/seed1", "seed1/tta_plate_bn"]


def test_a_sweep_killed_in_the_middle_goes_on_and_runs_nothing_twice(stage):
    first, second = stage.run("ERM seed 0"), stage.run("ABRA (ours) seed 0")
    stage.change(second.folder, wait=600)
    child = stage.child()
    sweeps.wait_for(lambda: second.folder.name in str(stage.log("start")[1:]))
    sweeps.wait_for(lambda: RunState(second).stage == RESUMES)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    assert RunState(first).stage == FINISHED and len(stage.log("start")) == 2
    stage.change(wait=0)
    assert stage() == 0
    assert Counter(stage.log("end")) == Counter(sweeps.ALL)
    assert Counter(stage.log("start")) == Counter(sweeps.ALL) + Counter(["ABRA_ours/seed0"])
    begun = second.folder.with_name("seed0.log").read_text().splitlines()
    trained = [line for line in begun if line.startswith("$") and "predict" not in line]
    assert [line.endswith("--resume") for line in trained[:2]] == [False, True]


def test_a_lock_that_is_given_up_is_waited_for(stage):
    run = stage.run("ERM seed 0")
    holder = ExitStack()
    holder.enter_context(locked(run))
    threading.Timer(0.3, holder.close).start()
    assert stage("--only", "ERM", "--seeds", "0") == 0
    assert stage.log("end") == ["ERM/seed0"]


@pytest.mark.slow
def test_two_sweeps_started_at_once_share_the_runs(stage):
    stage.change(wait=0.3)
    both = [stage.child("--jobs", "2") for _ in range(2)]
    said = [child.communicate(timeout=300) for child in both]
    assert [child.returncode for child in both] == [0, 0], said
    assert Counter(stage.log("start")) == Counter(sweeps.ALL)


def test_sigterm_stops_what_runs_and_leaves_it_to_be_resumed(stage):
    run = stage.run("ERM seed 0")
    stage.change(wait=600)
    child = stage.child()
    sweeps.wait_for(lambda: run.folder.exists() and RunState(run).stage == RESUMES)
    child.terminate()
    _, said = child.communicate(timeout=300)
    assert child.returncode == 130 and "interrupted" in said
    assert stage.log("start") == ["ERM/seed0"] and stage.log("end") == []
    with locked(run) as ours:
        assert ours


HOLDS = """
import sys
from pathlib import Path
from abra_wilds.results.lock import hold
with hold(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("below", ["", "tta_plate_bn"])
def test_a_run_stays_locked_until_the_process_of_a_killed_sweep_that_is_at_it_has_ended(stage, below):
    run = stage.run("ABRA (ours) seed 0")
    folder = run.folder / below
    folder.mkdir(parents=True)
    with locked(run) as ours, locked(run) as other:
        assert ours and not other
        assert str(os.getpid()) in lock_of(run).read_text()
    command = [sys.executable, "-c", HOLDS, str(folder / LOCK)]
    heir = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert heir.stdout.readline() == b"True\n"
    with locked(run) as ours:
        assert not ours
    threading.Timer(0.3, heir.stdin.close).start()
    with locked(run, patience=60) as ours:
        assert ours
    heir.wait()


def test_a_run_that_another_sweep_is_at_is_left_to_it(stage, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "PATIENCE", 0.2)
    with locked(stage.run("ERM seed 1")):
        assert stage("--only", "ERM") == 0
    assert stage.log("start") == ["ERM/seed0"]
    assert "ERM seed 1 is left to another sweep" in capsys.readouterr().out


def test_a_folder_of_other_settings_is_refused_and_left_as_it_is(stage, screen, refused_sweep):
    run = stage.run("ERM seed 1")
    boards.make_run(screen, run.folder, 1, algorithm="ERM", lr=0.5)
    before = sorted(path.name for path in run.folder.iterdir())
    runs.assert_says(refused_sweep(), "ERM/seed1", "lr (was 0.5, is 0.001)", "--out")
    assert sorted(path.name for path in run.folder.iterdir()) == before


def test_states_tell_new_runs_from_finished_and_broken_ones(stage, screen):
    run = stage.planned[0]
    assert RunState(run).stage == NEW
    run.folder.mkdir(parents=True)
    assert RunState(run).stage == NEW
    (run.folder / "log.txt").touch()
    assert RunState(run).stage == BROKEN
    (run.folder / "rxrx1_seed:0_epoch:last_model.pth").touch()
    assert RunState(run).stage == RESUMES
    made = sweeps.write_run(screen, stage.out / "made", run)
    made.rename(run.folder.with_name("made"))
    (run.folder / "log.txt").unlink()
    for path in run.folder.with_name("made").iterdir():
        path.rename(run.folder / path.name)
    assert RunState(run).stage == FINISHED
    (run.folder / "rxrx1_split:test_seed:0_epoch:best_pred.csv").unlink()
    assert RunState(run).stage == RESUMES


def test_broken_runs_go_on_by_resume_where_an_epoch_was_saved_and_start_anew_where_none_was(stage):
    launcher, run = Launcher(sweeps.programs_of(stage.path), 1, 1), stage.planned[0]
    ends = {state: launcher.training(run, state, ("cpu",))[-1] for state in (NEW, RESUMES, BROKEN)}
    assert ends == {NEW: "cpu", RESUMES: "--resume", BROKEN: "--overwrite"}


def test_an_adaptation_that_broke_off_is_made_anew_and_nothing_else(stage):
    assert stage() == 0
    folder = stage.run("ABRA (ours) seed 1").folder / "tta_plate_bn"
    (folder / "results.jsonl").unlink()
    assert stage() == 0
    assert stage.log("start")[6:] == ["seed1/tta_plate_bn"]


def test_an_adaptation_of_other_settings_is_refused(stage, screen, refused_sweep):
    run = stage.run("ABRA (ours) seed 0")
    sweeps.write_adapted(screen, run.folder / "tta_plate_bn", run, {"tta": "plate_bn", "amp": "bf16"})
    runs.assert_says(refused_sweep(), "tta_plate_bn", "other settings", "rename")


def test_failures_are_collected_by_their_last_lines_and_the_others_go_on(stage, capsys):
    stage.change(stage.run("ERM seed 0").folder, fails="error: no such screen")
    assert stage() == 1
    failures = capsys.readouterr().err.splitlines()
    assert [line for line in failures if "failed" in line] == [
        f"ERM seed 0 failed: error: no such screen ({stage.out / 'ERM' / 'seed0.log'})"
    ]
    assert len(stage.log("end")) == 5


def test_a_run_that_ends_well_without_its_predictions_is_a_failure(stage, capsys):
    run = stage.run("ERM seed 1")
    made = boards.Path(stage.playbook["folders"][str(run.folder)]["copy"])
    next(made.glob("*split:val*best_pred.csv")).unlink()
    assert stage() == 1
    runs.assert_says(capsys.readouterr().err, "ERM seed 1", "split:val_seed:1", "remove")


def test_devices_are_dealt_out_in_groups():
    assert device_slots(None, 1, None) == [("0",)]
    assert device_slots(["2", "5", "6"], 1, 4) == [("2",), ("5",), ("6",), ("2",)]
    assert device_slots(["0", "1", "2", "3", "4"], 2, None) == [("0", "1"), ("2", "3")]
    assert device_slots(["cpu"], 2, 3) == [("cpu",)] * 3
    assert device_slots(["mps"], 1, 2) == [("mps",)] * 2


@pytest.mark.parametrize(
    ("devices", "k", "jobs", "parts"),
    [
        (["0"], 2, None, ["--devices", "0", "2"]),
        (["0", "0"], 1, None, ["--devices", "0 0"]),
        (["gpu"], 1, None, ["--devices", "gpu"]),
        (["cpu"], 1, 0, ["--jobs", "0"]),
    ],
)
def test_devices_that_cannot_be_are_refused(devices, k, jobs, parts):
    with pytest.raises(InputError) as fault:
        device_slots(devices, k, jobs)
    runs.assert_says(str(fault.value), *parts)


def test_a_run_on_several_devices_starts_by_torchrun_on_those_alone(screen, tmp_path, monkeypatch):
    stage = sweeps.Stage(screen, tmp_path, gpus_per_run=2)
    run, launcher = stage.planned[0], Launcher(sweeps.programs_of(stage.path), 2, 1)
    assert run.config.values()["world"] == 2
    monkeypatch.setenv(VISIBLE, "4,5,6,7")
    assert launcher.environment(("2", "3"))[VISIBLE] == "6,7"
    command = launcher.training(run, NEW, ("2", "3"))
    assert command[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    assert "--device" not in command
    assert launcher.training(run, NEW, ("cpu",))[-2:] == ["--device", "cpu"]


@pytest.mark.slow
def test_real_runs_killed_in_the_middle_are_resumed_and_known_when_finished(root, tmp_path, capsys):
    rows = [
        {"label": "ERM", "algorithm": "ERM"},
        {"label": "ABRA", "algorithm": "ABRA", "tta": [sweeps.REAL_TTA]},
    ]
    words, planned = sweeps.real(root, tmp_path, rows, (0, 1))
    words, out = [*words, "--jobs", "2"], tmp_path / "RUNS"
    child = sweeps.tiny_child(words)
    sweeps.wait_for(lambda: list(out.glob("ABRA/seed0/*epoch:last_model.pth")))
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    done = {run.folder for run in planned if RunState(run).stage == FINISHED and not RunState(run).to_adapt}
    assert sweep_main(words, sweeps.TINY) == 0
    assert f"4 runs, {len(done)} finished before" in capsys.readouterr().out
    lines = [line for log in out.glob("*/seed?.log") for line in log.read_text().splitlines()]
    commands = [line for line in lines if line.startswith("$ ") and "--log_dir" in line]
    trained = Counter(line.partition("--log_dir ")[2].split()[0] for line in commands)
    assert len(trained) == 4 and all(trained[str(path)] == 1 for path in done)
    assert sum(trained.values()) <= 4 + 2
    assert sweep_main(words, sweeps.TINY) == 0
    assert "4 runs, 4 finished before" in capsys.readouterr().out
