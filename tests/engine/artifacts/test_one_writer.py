"""A run's folder has one writer at a time, and its history is not begun again by mistake."""

from __future__ import annotations

import contextlib
import errno
import time

import pytest

from abra_wilds.commands.train import main
from abra_wilds.engine.artifacts.folder import LOCK
from abra_wilds.results.lock import hold
from tests import runs

LAST = "rxrx1_seed:0_epoch:last_model.pth"


def contents(folder):
    """Every file of a folder and of those in it, but the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {path.relative_to(folder): path.read_bytes() for path in files}


@contextlib.contextmanager
def waiting_run(argv, folder, step):
    """A run in a process of its own that waits after a step, and is killed at the end."""
    process = runs.child(argv, wait_at=step)
    try:
        while not (folder / ".reached").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        (folder / ".reached").unlink()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_living_run_keeps_its_folder_and_a_killed_one_frees_it_at_once(root, tiny, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = runs.command(root, folder, "ERM")
    with waiting_run(argv, folder, step=12) as process:
        before = contents(folder)
        for flag in ("--resume", "--overwrite", "--eval_only"):
            assert main([*argv, flag]) == 2
            said = capsys.readouterr().err
            assert str(folder) in said and f"process {process.pid} on " in said
        assert contents(folder) == before
    assert main([*argv, "--resume"]) == 0
    assert runs.state(folder)["epoch"] == 1 and not (folder / LOCK).exists()


def test_of_two_that_begin_at_once_one_runs(root, tiny, tmp_path):
    folder = tmp_path / "run"
    both = [runs.child([*runs.command(root, folder, "ERM"), "--resume"]) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    codes = sorted(process.returncode for process in both)
    # The second is refused, or comes when the first has ended and finds nothing left to do.
    assert codes in ([0, 2], [0, 0]), said
    assert [row["epoch"] for row in runs.rows_of(folder / "val_eval.csv")] == ["0", "1"]


@pytest.mark.parametrize("lost", ["last", "models", "all but the logs"])
def test_resuming_without_the_last_model_is_refused_and_changes_nothing(root, tiny, tmp_path, capsys, lost):
    folder = tmp_path / "run"
    argv = runs.command(root, folder, "ERM")
    assert main(argv) == 0
    gone = {
        "last": [folder / LAST],
        "models": folder.glob("*.pth"),
        "all but the logs": [*folder.glob("*.pth"), *folder.glob("*_pred.csv"), folder / "results.jsonl"],
    }
    for path in list(gone[lost]):
        path.unlink()
    before = contents(folder)
    assert main([*argv, "--resume"]) == 2
    said = capsys.readouterr().err
    assert LAST in said and "--overwrite" in said
    assert contents(folder) == before
    assert main([*argv, "--overwrite"]) == 0 and runs.state(folder)["epoch"] == 1


def test_a_run_that_ended_in_its_first_epoch_starts_over(root, tiny, tmp_path):
    folder = tmp_path / "run"
    argv = runs.command(root, folder, "ERM")
    runs.kill_at(argv, folder, step=3)
    assert main([*argv, "--resume"]) == 0 and runs.state(folder)["epoch"] == 1


def test_a_run_that_ended_in_its_first_epoch_twice_starts_over(root, tiny, tmp_path):
    """First after the best model, then before the logs have a row again."""
    argv = runs.command(root, tmp_path, "ERM", n_epochs=1)
    assert main(argv) == 0
    (tmp_path / LAST).unlink()
    (tmp_path / "results.jsonl").unlink()
    runs.kill_at([*argv, "--resume"], tmp_path, step=2)
    assert main([*argv, "--resume"]) == 0 and runs.state(tmp_path)["epoch"] == 0


@pytest.mark.parametrize("without", ["logs", "rows"])
def test_models_of_which_no_log_tells_the_epoch_are_not_taken_for_the_first_ones(
    root, tiny, tmp_path, capsys, without
):
    argv = runs.command(root, tmp_path, "ERM", n_epochs=1)
    assert main(argv) == 0
    for path in [tmp_path / LAST, tmp_path / "results.jsonl", *tmp_path.glob("*_eval.csv")]:
        if without == "rows" and path.suffix == ".csv":
            path.write_text(path.read_text().splitlines(True)[0])
        else:
            path.unlink()
    assert "best_model.pth" in runs.sentence(capsys, main, [*argv, "--resume"])


def test_a_refused_run_leaves_no_folder_of_its_own(root, tiny, tmp_path, capsys):
    folder = tmp_path / "new" / "run"
    assert main(runs.command(root, folder, "ERM", val_metric="acc_none")) == 2
    assert not folder.parent.exists()


def test_a_lock_is_waited_for_and_names_its_holder(tmp_path):
    path = tmp_path / "lock"
    with hold(path) as first, hold(path, patience=0.1) as second:
        assert first and not second
        assert path.read_text().startswith("process ")
    with hold(path) as again:
        assert again


def test_a_file_system_without_locks_is_refused_before_training(root, tiny, tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    folder = tmp_path / "run"
    said = runs.sentence(capsys, main, runs.command(root, folder, "ERM"))
    runs.assert_says(said, str(folder / LOCK), "cannot be locked", "give a folder")
    assert not list(folder.glob("*.csv")) and not list(folder.glob("*.pth"))
