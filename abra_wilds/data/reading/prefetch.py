"""Batches on their way to a device while it is still at work on the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from abra_wilds.types import Batch


def prefetched(batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Batch, Batch]]:
    """Each batch on the host and on the device, in order.

    On CUDA a batch is copied on a stream of its own and one batch ahead, so that the next one travels while
    this one is worked on; that needs pinned batches. Elsewhere batches pass through.

    Args:
        batches: on the host.
        device: where they go.
    """
    if device.type != "cuda":
        for host in batches:
            yield host, host.to(device)
        return
    copies = side_stream(device)
    ahead: deque[tuple[Batch, Batch, torch.cuda.Event]] = deque()
    for host in batches:
        with torch.cuda.stream(copies):
            ahead.append((host, host.to(device), copies.record_event()))
        # Handed over only once the next copy is under way.
        if len(ahead) > 1:
            yield handed_over(*ahead.popleft())
    if ahead:
        yield handed_over(*ahead.popleft())


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which all batches of this process are copied to a device.

    Only one, because torch gives memory that was freed on a stream to that stream alone: with a new one for
    each epoch the copies of every epoch would be reserved again.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def handed_over(host: Batch, there: Batch, copied: torch.cuda.Event) -> tuple[Batch, Batch]:
    """A batch for the current stream, which waits for the copy and is done before its memory is free."""
    stream = torch.cuda.current_stream(there.x.device)
    stream.wait_event(copied)
    # Else the copying stream may reuse the memory while this stream still reads it.
    for tensor in tensors_of(there):
        tensor.record_stream(stream)
    return host, there


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor of a batch, whatever holds it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from tensors_of(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_of(getattr(value, field.name))
