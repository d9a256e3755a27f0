"""Two processes that stay up for the tests of a module, so that torch is imported once and not in every test.

They are given who they are as torchrun would say them, and meet again in every task.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

WORLD = 2
PATIENCE, END = 600, 10  # seconds for a task, and for the end of a process


class Ranks:
    """Runs a function on all processes, and gives what each returned, by rank."""

    def __init__(self, pipes: list[Connection]):
        self.pipes = pipes

    def __call__(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Results by rank; what a process raised fails the test.

        The store in which they meet is this process's, as it is torchrun's: it outlives each of them.
        """
        from torch.distributed import TCPStore

        store = TCPStore("127.0.0.1", 0, WORLD, is_master=True, wait_for_workers=False)
        for pipe in self.pipes:
            pipe.send((store.port, work, args, kwargs))
        found = [pipe.recv() if pipe.poll(PATIENCE) else (False, "no answer") for pipe in self.pipes]
        wrong = [text for fine, text in found if not fine]
        if wrong:
            raise AssertionError("\n".join(wrong))
        return [result for _, result in found]


def serve(rank: int, pipe: Connection) -> None:
    """One process: does what comes through the pipe, with the tiny networks, until None comes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    import torch.distributed as dist

    from abra_wilds.nets import backbones
    from tests import runs

    backbones.BACKBONES |= {"resnet18": runs.tiny_backbone, "vit_small": runs.tiny_transformer}
    while (task := pipe.recv()) is not None:
        port, work, args, kwargs = task
        os.environ["MASTER_PORT"] = str(port)
        try:
            pipe.send((True, work(*args, **kwargs)))
        except BaseException:
            pipe.send((False, f"rank {rank}: {traceback.format_exc()}"))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


@contextmanager
def two_ranks() -> Iterator[Ranks]:
    """The processes, until the end."""
    spawn = multiprocessing.get_context("spawn")
    pairs = [spawn.Pipe() for _ in range(WORLD)]
    workers = [spawn.Process(target=serve, args=(k, pair[1]), daemon=True) for k, pair in enumerate(pairs)]
    for worker in workers:
        worker.start()
    try:
        yield Ranks([pair[0] for pair in pairs])
    finally:
        for pipe, _ in pairs:
            pipe.send(None)
        for worker in workers:
            worker.join(END)  # coverage writes what it has seen
            worker.kill()
            worker.join()


def said(argv: list[str]) -> tuple[int | str | None, str]:
    """Exit code and everything on stderr of the main command in this process."""
    from abra_wilds.commands.train import main

    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            code: int | str | None = main(argv)
        except SystemExit as end:
            code = end.code
    return code, err.getvalue()


def trained(argv: list[str], stop: int = 0) -> tuple[int | str | None, str, dict[str, Any]]:
    """The same of a training run, and the state of its method at the end; breaks off at step `stop`."""
    import pytest

    from abra_wilds.engine import fit as fit_module

    methods, taken, ended = [], [0], []
    build, step, leave = fit_module.build_method, fit_module.step, fit_module.leave_model

    def keeping(*args: Any, **kwargs: Any) -> Any:
        methods.append(build(*args, **kwargs))
        return methods[-1]

    def stopping(*args: Any, **kwargs: Any) -> Any:
        taken[0] += 1
        if taken[0] == stop:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    def state() -> dict[str, Any]:
        found = methods[-1].state_dict() if methods else {}
        return {name: getattr(value, "clone", lambda v=value: v)() for name, value in found.items()}

    def leaving(*args: Any) -> None:
        ended.append(state())  # rank 0's method takes over the best weights here, and has nothing left to do
        leave(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "build_method", keeping)
        patch.setattr(fit_module, "step", stopping)
        patch.setattr(fit_module, "leave_model", leaving)
        code, err = said(argv)
    return code, err, ended[0] if ended else state()


def together(work: Callable[..., Any], *args: Any) -> Any:
    """What `work` returns inside a group of all processes."""
    from abra_wilds.dist import started

    with started():
        return work(*args)


def abra_step(cfg: Any, plates: tuple[tuple[int, ...], ...]) -> tuple[dict[str, Any], Any]:
    """Gradients of theta, and K, of one step of ABRA in double precision, on a batch of this rank's plate."""
    import torch

    from abra_wilds.dist import rank
    from abra_wilds.engine.parallel import Parallel
    from tests.helpers import magnitudes, make_batch, make_method

    method = make_method("ABRA", cfg)
    parallel = Parallel(method)
    torch.manual_seed(rank())
    parallel(make_batch(g=plates[rank()], seed=rank())).loss.backward()
    return {name: p.grad for name, p in method.named_parameters()}, magnitudes(method)


def group_means_of(batches: list[Any]) -> Any:
    """groupDRO's means over the losses of all ranks, in four groups."""
    from abra_wilds.dist import rank
    from abra_wilds.methods.domains.group_dro import group_means

    values, g = batches[rank()]
    return group_means(values, g, 4, everywhere=True)
