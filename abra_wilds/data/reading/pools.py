"""Work on the images of a data set by several processes, with a bar that counts images."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from abra_wilds.compat.imports import import_wilds
from abra_wilds.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")

_dataset: Any = None  # of a worker process: sent once, not with each task


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
    dataset: Any,
    tasks: Sequence[Task],
    *,
    workers: int,
    n_images: Callable[[Task], int],
    desc: str,
) -> Iterator[tuple[Task, Result]]:
    """Each task with what `function(dataset, task)` made of it, in the order in which they are done.

    Args:
        function: of a module's top level, where a fresh process finds it.
        dataset: what every call needs; sent to each process once.
        tasks: what single calls need; short ones make a lively bar.
        workers: processes; 1 works in this one.
        n_images: images of a task, for the bar.
        desc: what the bar says.

    Raises:
        InputError: when a process was killed.
    """
    total = sum(map(n_images, tasks))
    with tqdm(total=total, unit=" images", desc=desc, disable=None) as bar:
        done = _here(function, dataset, tasks) if workers == 1 else _pooled(function, dataset, tasks, workers)
        for task, result in done:
            bar.update(n_images(task))
            yield task, result


def _here(
    function: Callable[[Any, Task], Result], dataset: Any, tasks: Sequence[Task]
) -> Iterator[tuple[Task, Result]]:
    for task in tasks:
        yield task, function(dataset, task)


def _pooled(
    function: Callable[[Any, Task], Result], dataset: Any, tasks: Sequence[Task], workers: int
) -> Iterator[tuple[Task, Result]]:
    # spawn: a fork of a process with running threads (torch, OpenBLAS) may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, max(len(tasks), 1)),
        mp_context=context,
        initializer=_begin,
        initargs=(pickle.dumps(dataset),),
    )
    try:
        futures = {pool.submit(_call, function, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as fault:
        raise InputError(
            "a worker process was killed, as happens when memory runs out; start again with fewer --workers"
        ) from fault
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(pickled: bytes) -> None:
    """Make a worker process ready: one thread, and no life after its parent's.

    WILDS' classes load only after what WILDS misses has been supplied, so the data set comes as bytes.
    """
    global _dataset
    import_wilds()
    _dataset = pickle.loads(pickled)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's processes would wait for work for ever if their parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _call(function: Callable[[Any, Task], Result], task: Task) -> Result:
    return function(_dataset, task)
