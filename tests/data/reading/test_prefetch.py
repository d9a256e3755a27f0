"""Batches on their way to a device: each once, in order, and on CUDA one ahead of the work."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from abra_wilds.data.reading import prefetch
from abra_wilds.data.reading.prefetch import prefetched, tensors_of
from abra_wilds.types import Batch, InputError, Target

CPU = torch.device("cpu")


def batch(k=0):
    rows = torch.arange(4) + k
    return Batch(
        torch.full((4, 3, 8, 8), k, dtype=torch.uint8), Target(rows), rows, rows[:, None], rows,
        (torch.tensor([0, 1]), torch.tensor([2, 3])), context=rows > 2,
    )  # fmt: skip


def test_each_batch_comes_once_and_in_order_with_itself_on_the_device():
    batches = [batch(k) for k in range(5)]
    pairs = list(prefetched(iter(batches), CPU))
    assert [host for host, _ in pairs] == batches
    assert all(torch.equal(host.x, there.x) for host, there in pairs)
    assert list(prefetched([], CPU)) == []


def test_a_fault_of_the_loader_arrives_as_it_is_after_the_batches_before_it():
    def faulty():
        yield batch()
        raise InputError("an image is damaged; restore it")

    pairs = prefetched(faulty(), CPU)
    assert len(next(pairs)) == 2
    with pytest.raises(InputError, match="damaged"):
        next(pairs)


def test_every_tensor_of_a_batch_is_found():
    full = batch()
    target = Target(full.target.y, full.target.y.clone(), torch.ones(4))
    full = Batch(full.x, target, full.g.clone(), full.metadata, full.rows.clone(), full.groups, (full.x + 1,))
    held = [
        full.x,
        target.y,
        target.y_b,
        target.w,
        full.g,
        full.metadata,
        full.rows,
        *full.groups,
        *full.views,
    ]
    assert {id(t) for t in tensors_of(full)} == {id(t) for t in held} and len(held) == 10


@pytest.fixture
def no_stream_yet():
    prefetch.side_stream.cache_clear()
    yield
    prefetch.side_stream.cache_clear()


def test_on_cuda_a_copy_is_asked_for_one_batch_ahead_and_waited_for_before_use(monkeypatch, no_stream_yet):
    """The order of the calls, with streams that only write down what is asked of them."""
    calls = []

    @contextmanager
    def stream(of):
        calls.append(f"on {of.name}")
        yield
        calls.append("back")

    def named(name):
        return SimpleNamespace(
            name=name,
            record_event=lambda: f"copy {calls[-1].split()[1]}",
            wait_event=lambda event: calls.append(f"{name} waits for {event}"),
        )

    class Host:
        def __init__(self, k):
            self.k = k

        def to(self, device):
            calls.append(f"copy {self.k}")
            return batch(self.k)

    cuda = SimpleNamespace(
        Stream=lambda _: named("side"), stream=stream, current_stream=lambda _: named("main")
    )
    monkeypatch.setattr(prefetch, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, s: calls.append(s.name), raising=False)
    for host, there in prefetched([Host(k) for k in range(3)], torch.device("cuda", 0)):
        assert (there.x == host.k).all()
        calls.append(f"work {host.k}")
    kept = ["main"] * len(list(tensors_of(batch())))
    assert calls == [
        "on side", "copy 0", "back", "on side", "copy 1", "back", "main waits for copy 0", *kept, "work 0",
        "on side", "copy 2", "back", "main waits for copy 1", *kept, "work 1",
        "main waits for copy 2", *kept, "work 2",
    ]  # fmt: skip


def test_all_epochs_are_copied_on_one_stream_of_each_device(monkeypatch, no_stream_yet):
    made = []
    cuda = SimpleNamespace(Stream=lambda device: made.append(device))
    monkeypatch.setattr(prefetch, "torch", SimpleNamespace(cuda=cuda))
    devices = [torch.device("cuda", k) for k in (0, 1)]
    for _ in range(3):
        assert [list(prefetched([], device)) for device in devices] == [[], []]
    assert made == devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_computes_on_what_the_host_holds():
    device = torch.device("cuda", 0)
    pinned = [Batch(*(t.pin_memory() if isinstance(t, torch.Tensor) else t for t in (
        b.x, Target(b.target.y.pin_memory()), b.g, b.metadata, b.rows, b.groups
    ))) for b in map(batch, range(20))]  # fmt: skip
    for k, (host, there) in enumerate(prefetched(pinned, device)):
        assert there.x.device == device and float(there.x.float().mean()) == k
        assert torch.equal(host.target.y, there.target.y.cpu())
