"""Signals end a run after a step, with a code that says which, and a second one ends it at once."""

from __future__ import annotations

import os
import signal
import time

import pytest

from abra_wilds.commands.train import main
from abra_wilds.engine import fit as fit_module
from tests import runs

SETTINGS = {"n_epochs": 3, "log_every": 2}


@pytest.fixture(scope="module")
def whole(root, tiny, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(runs.command(root, folder, "ERM", **SETTINGS)) == 0
    return folder


def signalled(patch, n, number):
    """Let a signal arrive within the n-th step; returns the list of steps that ended."""
    step, ended = fit_module.step, []

    def interrupted(*args, **kwargs):
        if len(ended) + 1 == n:
            os.kill(os.getpid(), number)
        out = step(*args, **kwargs)
        ended.append(True)
        return out

    patch.setattr(fit_module, "step", interrupted)
    return ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("n", [1, 11, 16])
def test_a_signal_ends_the_run_after_its_step_and_resume_goes_on_alike(
    root, tiny, whole, tmp_path, capsys, number, n
):
    folder = tmp_path / "run"
    argv = runs.command(root, folder, "ERM", **SETTINGS)
    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patch:
        ended = signalled(patch, n, number)
        assert main(argv) == 128 + number
    assert len(ended) == n and signal.getsignal(number) is before
    said = capsys.readouterr().err
    assert number.name in said and "--resume" in said
    assert main([*argv, "--resume"]) == 0
    assert runs.differences(*(runs.comparable(runs.state(f)) for f in (folder, whole))) == []
    assert runs.texts(folder) == runs.texts(whole)


def test_a_signal_in_an_evaluation_waits_until_the_epoch_is_saved(root, tiny, tmp_path, monkeypatch, capsys):
    evaluate = fit_module.evaluate_splits

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args)

    monkeypatch.setattr(fit_module, "evaluate_splits", interrupted)
    folder = tmp_path / "run"
    assert main(runs.command(root, folder, "ERM", **SETTINGS)) == 143
    assert runs.state(folder)["epoch"] == 0 and "after epoch 0" in capsys.readouterr().err


def test_a_second_signal_ends_the_process_at_once_and_what_was_saved_stays(root, tiny, tmp_path):
    folder = tmp_path / "run"
    process = runs.child(runs.command(root, folder, "ERM", **SETTINGS), wait_at=12)  # sleeps after the step
    try:
        while not (folder / ".reached").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None  # the step has not ended
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
    assert runs.state(folder)["epoch"] == 0


def test_the_classifiers_phase_stops_after_an_epoch(root, tiny, tmp_path, monkeypatch, capsys):
    from abra_wilds.engine.heads import phase

    epoch = phase.head_epoch

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return epoch(*args)

    monkeypatch.setattr(phase, "head_epoch", interrupted)
    folder = tmp_path / "run"
    argv = runs.command(root, folder, "SimCLR", n_epochs=1)
    assert main(argv) == 143 and runs.state(folder)["epoch"] == 1
    monkeypatch.undo()
    runs.use_tiny_backbone(monkeypatch)
    assert main([*argv, "--resume"]) == 0 and runs.state(folder)["epoch"] == 2
