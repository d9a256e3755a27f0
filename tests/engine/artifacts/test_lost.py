"""What ends a run from outside, memory, disk or a killed process: one sentence, and earlier epochs stay."""

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

from abra_wilds import fit, run_config
from abra_wilds.commands.train import main
from abra_wilds.data.reading.dataset import ImageDataset
from abra_wilds.engine import fit as fit_module
from abra_wilds.engine.artifacts.checkpoint import Progress, save_checkpoint
from abra_wilds.errors import RunAborted
from abra_wilds.terminal import exit_cleanly
from tests import disks, runs
from tests.helpers import make_method

KILLED = ("worker", "/dev/shm", "num_workers")  # what the sentence names


def test_a_step_that_does_not_fit_the_device_ends_the_run_with_advice(
    root, tiny, tmp_path, capsys, monkeypatch
):
    taken, step = [0], fit_module.step

    def full(*args, **kwargs):
        taken[0] += 1
        if taken[0] == 10:  # an epoch has 8 steps
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(*args, **kwargs)

    monkeypatch.setattr(fit_module, "step", full)
    said = runs.sentence(capsys, main, runs.command(root, tmp_path, "ERM"), code=1)
    runs.assert_says(said, "memory", "--batch_size", "--amp bf16")
    assert runs.state(tmp_path)["epoch"] == 0
    taken[0] = 9
    with pytest.raises(RunAborted, match="--batch_size"):
        fit(run_config("ERM", **runs.settings(root, tmp_path / "again", "ERM")))


def test_a_worker_that_is_killed_is_a_sentence(root, tiny, tmp_path, capfd, monkeypatch):
    read = ImageDataset.__getitem__

    def killed(self, request):
        if get_worker_info() is not None and 20 in request.batch.rows:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, request)

    monkeypatch.setattr(ImageDataset, "__getitem__", killed)
    argv = runs.command(root, tmp_path, "ERM", loader_kwargs={"num_workers": 1})
    runs.assert_says(runs.sentence(capfd, main, argv, code=1), *KILLED)


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
        "DataLoader worker (pid 7) is killed by signal: Bus error",
        "Pin memory thread exited unexpectedly",
    ],
)
def test_the_death_of_a_worker_may_strike_anywhere_in_a_command(capsys, message):
    def body():
        raise RuntimeError(message)

    assert KILLED[0] in runs.sentence(capsys, exit_cleanly, body, code=1)


@pytest.mark.parametrize("kind", [ConnectionResetError, ConnectionRefusedError, BrokenPipeError, EOFError])
def test_a_worker_that_dies_while_it_hands_a_batch_over_is_the_same_sentence(
    root, tiny, tmp_path, capsys, monkeypatch, kind
):
    def broken(self):
        raise kind
        yield

    monkeypatch.setattr(DataLoader, "__iter__", broken)
    argv = runs.command(root, tmp_path, "ERM", loader_kwargs={"num_workers": 1})
    runs.assert_says(runs.sentence(capsys, main, argv, code=1), *KILLED)


@pytest.mark.parametrize(
    ("workers", "fault"), [(1, EOFError("Caught EOFError in DataLoader worker process 0.")), (0, EOFError())]
)
def test_what_reading_itself_meets_is_no_death_of_a_worker(root, tiny, tmp_path, monkeypatch, workers, fault):
    def broken(self):
        raise fault
        yield

    monkeypatch.setattr(DataLoader, "__iter__", broken)
    with pytest.raises(EOFError):
        main(runs.command(root, tmp_path, "ERM", loader_kwargs={"num_workers": workers}))


def test_other_errors_keep_their_traceback():
    def body():
        raise RuntimeError("Caught ValueError in DataLoader worker process 0.")

    with pytest.raises(RuntimeError, match="Caught ValueError"):
        exit_cleanly(body)


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.99])
def test_a_checkpoint_that_the_disk_cannot_hold_is_named_and_the_one_before_stays(tmp_path, capsys, share):
    path, method = tmp_path / "c.pth", make_method("ERM")
    save_checkpoint(path, method, Progress(0))
    before = path.read_bytes()
    with disks.files_of_at_most(int(share * len(before))):
        said = runs.sentence(capsys, exit_cleanly, lambda: save_checkpoint(path, method, Progress(1)), code=1)
    assert f"File too large ({path})" in said
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_other_faults_of_saving_are_not_put_down_to_the_disk(tmp_path, monkeypatch):
    def broken(state, target):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        save_checkpoint(tmp_path / "c.pth", make_method("ERM"), Progress(0))
