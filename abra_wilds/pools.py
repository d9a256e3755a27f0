"""Work on images by several processes, with a bar that counts images. Torch-free."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

from tqdm import tqdm

from abra_wilds.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Each process computes on one thread; without this it would start as many as the machine has cores.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_shared: Any = None  # of a worker process: sent once, not with each task


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_workers(workers: int) -> None:
    """Refuse a number of processes that is none.

    Raises:
        InputError: for fewer than one.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; give a whole number of at least 1")


def each(
    function: Callable[[Any, Task], Result],
    shared: Any,
    tasks: Sequence[Task],
    *,
    workers: int,
    n_images: Callable[[Task], int],
    desc: str,
    ready: Callable[[], object] | None = None,
    quiet: bool = False,
) -> Iterator[tuple[Task, Result]]:
    """Each task with what `function(shared, task)` made of it, in the order in which they are done.

    Args:
        function: of a module's top level, where a fresh process finds it.
        shared: what every call needs; sent to each process once.
        tasks: what single calls need; short ones make a lively bar.
        workers: processes; 1 works in this one.
        n_images: images of a task, for the bar.
        desc: what the bar says.
        ready: called in each fresh process before `shared` arrives, for classes that load only then.
        quiet: no bar, not even on a terminal.

    Raises:
        InputError: when a process was killed.
    """
    total = sum(map(n_images, tasks))
    # None: a bar on a terminal alone.
    with tqdm(total=total, unit=" images", desc=desc, disable=quiet or None) as bar:
        done: Iterator[tuple[Task, Result]]
        if workers == 1:
            done = ((task, function(shared, task)) for task in tasks)
        else:
            done = _pooled(function, shared, tasks, workers, ready)
        for task, result in done:
            bar.update(n_images(task))
            yield task, result


def _pooled(
    function: Callable[[Any, Task], Result],
    shared: Any,
    tasks: Sequence[Task],
    workers: int,
    ready: Callable[[], object] | None,
) -> Iterator[tuple[Task, Result]]:
    # spawn: a fork of a process with running threads (torch, OpenBLAS) may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, max(len(tasks), 1)),
        mp_context=context,
        initializer=_begin,
        initargs=(pickle.dumps(shared), ready),
    )
    try:
        with _one_thread_each():  # processes are started as tasks are handed in
            futures = {pool.submit(_call, function, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as fault:
        raise InputError(
            "a worker process was killed, as happens when memory runs out; start again with fewer --workers"
        ) from fault
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # after a failure or Ctrl-C nobody waits for the rest


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Have processes started inside compute on one thread; they read the variables as they import numpy."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin(pickled: bytes, ready: Callable[[], object] | None) -> None:
    """Make a worker process ready for tasks, and see that it does not outlive its parent."""
    global _shared
    if ready is not None:
        ready()
    _shared = pickle.loads(pickled)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's processes would wait for work for ever if their parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _call(function: Callable[[Any, Task], Result], task: Task) -> Result:
    return function(_shared, task)
