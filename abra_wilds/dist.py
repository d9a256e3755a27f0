"""Several processes that train one model, each on batches of its own; with one, nothing here does anything.

torchrun starts them and tells each by RANK, WORLD_SIZE and LOCAL_RANK which it is. Tensors are reduced where
they live (NCCL on CUDA, gloo on a CPU), objects on the host.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from abra_wilds.errors import InputError

T = TypeVar("T")
_GROUPS = count()  # of this process, so that one run does not read what an earlier one left in the store


def launched() -> int:
    """Processes that torchrun has started, whether they know one another yet or not; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def local_rank() -> int:
    """The number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def local_world() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if world() > 1 else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Processes that work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


@contextmanager
def started() -> Iterator[None]:
    """Bring the processes of torchrun together; decorates what they do with one another.

    Of several that fail the first says why, and the others end silently with the same exit code.
    """
    if launched() == 1 or dist.is_initialized():
        yield
        return
    found, rank_, world_ = next(iter(rendezvous("env://")))
    store = dist.PrefixStore(f"abra_wilds {next(_GROUPS)}", found)  # type: ignore[attr-defined]
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
    dist.init_process_group(backend, store=store, rank=rank_, world_size=world_)
    try:
        yield
    except (Exception, KeyboardInterrupt) as fault:
        # No farewell: others may be waiting for a number that this process will not send.
        if _is_first(store):
            raise
        interrupted = getattr(fault, "code", 130) if isinstance(fault, KeyboardInterrupt) else 1
        raise SystemExit(2 if isinstance(fault, InputError) else interrupted) from None
    dist.destroy_process_group()


def _is_first(store: Any) -> bool:
    """Whether no other process has failed; also true where the one that would know is gone."""
    try:
        return bool(store.add("failed", 1) == 1)
    except RuntimeError:
        return True


def mean_across_ranks(t: Tensor) -> Tensor:
    """The mean of a tensor over all processes, the same on each."""
    return sum_across_ranks(t) / world() if world() > 1 else t


def means_across_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The means of several tensors by one reduction."""
    if world() == 1 or not tensors:
        return list(tensors)
    flat = mean_across_ranks(torch.cat([t.flatten() for t in tensors]))
    parts = torch.split(flat, [t.numel() for t in tensors])
    return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]


def sum_across_ranks(t: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    return _reduced(t, dist.ReduceOp.SUM)


def max_across_ranks(t: Tensor) -> Tensor:
    """The largest of each entry over all processes."""
    return _reduced(t, dist.ReduceOp.MAX)


def _reduced(t: Tensor, op: Any) -> Tensor:
    if world() == 1:
        return t
    t = t.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(t, op)
    return t


def broadcast(t: Tensor) -> Tensor:
    """Rank 0's tensor, on every process."""
    if world() > 1:
        t = t.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(t, 0)
    return t


def all_gather(value: T) -> list[T]:
    """The values of all processes in the order of their ranks."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def on_rank_zero(work: Callable[[], T]) -> T:
    """What `work` returns on rank 0, the only process that does it, on every process.

    Raises:
        InputError: on every process, if rank 0's work does.
    """
    if world() == 1:
        return work()
    found: list[Any] = [None, None]
    if is_main():
        try:
            found = [work(), None]
        except InputError as fault:
            found = [None, str(fault)]
    dist.broadcast_object_list(found, src=0)
    result, refusal = found
    if refusal is not None:
        raise InputError(refusal)
    return result  # type: ignore[no-any-return]
