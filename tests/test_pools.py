"""Work by several processes: one thread each, a sentence where one is killed, and none that stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from abra_wilds.errors import InputError
from abra_wilds.pools import check_workers, each

REPOSITORY = Path(__file__).resolve().parents[1]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def product(factor, task):
    """A result, the process it comes from, and what that process reads of threads."""
    return factor * task, os.getpid(), [os.environ.get(name) for name in THREADS]


def kill_at_three(_, task):
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(folder, task):
    (folder / str(task)).touch()
    time.sleep(600)


def done(function, shared, workers, tasks=range(6)):
    """What came of tasks, by task."""
    return dict(each(function, shared, tasks, workers=workers, n_images=int, desc="test", quiet=True))


def test_one_process_works_here_and_two_elsewhere_on_one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    here, there = done(product, 5, 1), done(product, 5, 2)
    assert {task: r[0] for task, r in here.items()} == {task: 5 * task for task in range(6)}
    assert {task: r[0] for task, r in there.items()} == {task: 5 * task for task in range(6)}
    assert {r[1] for r in here.values()} == {os.getpid()} and os.getpid() not in {
        r[1] for r in there.values()
    }
    assert all(r[2] == ["1", "1", "1"] for r in there.values())
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


def test_a_worker_that_is_killed_is_a_sentence_and_none_is_a_refusal():
    with pytest.raises(InputError, match=r"killed.*--workers"):
        done(kill_at_three, None, 2)
    with pytest.raises(InputError, match="workers is 0"):
        check_workers(0)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    program = (
        "import sys; from pathlib import Path; from tests.test_pools import done, wait_for_ever\n"
        "if __name__ == '__main__': done(wait_for_ever, Path(sys.argv[1]), 2)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], cwd=REPOSITORY, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 120
    while len(list(Path(tmp_path).iterdir())) < 2 and child.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    # Its pipe closes once its own processes have ended as well.
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 2
