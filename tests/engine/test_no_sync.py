"""Acceptance 5: a training step never makes the host wait for the device.

Tensors on "meta" stand for those of a device: reading one raises. `Waits` adds what would wait silently,
copies of host memory that block. On a GPU the same steps run under torch's own alarm.
"""

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from abra_wilds import run_config
from abra_wilds.data.augment.transforms import augment
from abra_wilds.engine.artifacts.logs import DivergenceCheck, Meter
from abra_wilds.engine.heads.heads import Features, Heads, head_optimizer
from abra_wilds.engine.inputs import learned_rows, method_batch
from abra_wilds.engine.precision import configure_precision, make_scaler
from abra_wilds.engine.schedule import make_optimizer, set_learning_rate
from abra_wilds.engine.step import step
from abra_wilds.methods import METHODS
from abra_wilds.types import Batch, InputError, StepContext, Target
from tests.helpers import groups_of, make_info, tiny_net, tiny_vit
from tests.methods.settings import SETTINGS

META = torch.device("meta")
EVERY = [(name, label) for name in METHODS for label in SETTINGS[name]]
G = (0, 1, 1, 0, 2, 2, 0, 1)
MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
MOVERS = (torch.Tensor.to, torch.Tensor.copy_)


class Waits(TorchFunctionMode):
    """Collects the calls for which the host would wait for a device although nothing is read."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        on_host = [t for t in args[:2] if isinstance(t, torch.Tensor) and not t.is_meta]
        made = func in MAKERS and out.is_meta
        moved = func in MOVERS and out.is_meta and bool(on_host)
        if made or (moved and not (kwargs.get("non_blocking") or any(a is True for a in args))):
            self.found.append(func.__name__)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and args[0].is_meta:
            self.found += [func.__name__] * self.copies(func, *args[1:])
        return out

    @staticmethod
    def copies(func, index, value=None):
        """Whether an index, or a number at indexed places, is copied to the device."""
        parts = index if isinstance(index, tuple) else (index,)
        listed = any(isinstance(p, list | np.ndarray) for p in parts)
        tensors = [p for p in parts if isinstance(p, torch.Tensor)]
        number = func is torch.Tensor.__setitem__ and bool(tensors) and not isinstance(value, torch.Tensor)
        return listed or any(not p.is_meta for p in tensors) or number


WAITING = {
    "tensor": lambda x, i: torch.tensor(0.5, device=META),
    "as_tensor": lambda x, i: torch.as_tensor([1, 2], device=META),
    "new_tensor": lambda x, i: x.new_tensor([1.0]),
    "to": lambda x, i: torch.ones(2).to(META),
    "copy_": lambda x, i: x.copy_(torch.ones(4)),
    "index by a list": lambda x, i: x[[0, 1]],
    "index on the host": lambda x, i: x[torch.tensor([0])],
    "number at indices": lambda x, i: x.__setitem__(i, 1.0),
}
READING = {
    "item": lambda x, i: x[0].item(),
    "bool": lambda x, i: bool(x[0] > 0),
    "tolist": lambda x, i: x.tolist(),
    "cpu": lambda x, i: x.cpu(),
    "nonzero": lambda x, i: torch.nonzero(x),
    "mask": lambda x, i: x[x > 0],
    "unique": lambda x, i: torch.unique(x),
}
QUIET = {
    "non_blocking": lambda x, i: torch.ones(2).to(META, non_blocking=True),
    "positional": lambda x, i: torch.ones(2).to(META, torch.float32, True),
    "host alone": lambda x, i: torch.tensor([0.5]).item(),
    "kernel": lambda x, i: torch.full((2,), 0.5, device=META),
    "index": lambda x, i: x[i],
    "fill": lambda x, i: x.index_fill_(0, i, 1.0),
    "where": lambda x, i: torch.where(x > 0, 1.0, x),
}


def on_meta():
    return torch.ones(4, device=META), torch.zeros(1, dtype=torch.int64, device=META)


@pytest.mark.parametrize("call", WAITING.values(), ids=WAITING)
def test_the_watch_sees_copies_that_block(call):
    x, i = on_meta()
    with Waits() as waits:
        call(x, i)
    assert len(waits.found) == 1


@pytest.mark.parametrize("call", READING.values(), ids=READING)
def test_the_stand_in_for_a_device_raises_where_it_is_read(call):
    with pytest.raises((RuntimeError, NotImplementedError)), Waits():
        call(*on_meta())


@pytest.mark.parametrize("call", QUIET.values(), ids=QUIET)
def test_the_watch_lets_pass_what_waits_for_nothing(call):
    x, i = on_meta()
    with Waits() as waits:
        call(x, i)
    assert waits.found == []


def host_batch(size=8, context=False):
    """A batch as a loader hands it over; with context its last two rows lend statistics alone."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (len(G), 3, size, size), dtype=np.uint8))
    g, ids = torch.tensor(G), torch.arange(len(G))
    lent = ids >= len(G) - 2 if context else None
    return Batch(x, Target(ids % 5), g, torch.stack([g, g], 1), ids, groups_of(G), views=(), context=lent)


def make(name, label, device, **flags):
    """A method on a device with all that fit gives it, and the function that is one pass of fit's loop."""
    config = run_config(name, **flags)
    torch.manual_seed(0)
    net = (tiny_vit if name == "DINOv2" else tiny_net)()
    method = METHODS[name](net, make_info(), SETTINGS[name][label]).to(device).train()
    configure_precision(method, config.speed)
    scaler = make_scaler(config.speed, device)
    optimizer = make_optimizer(config.optim, method)
    meter, guard = Meter(6, device, by_group=True), DivergenceCheck(str)
    draws, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)

    def one(host, max_norm=1.0):
        set_learning_rate(optimizer, 1e-3)
        method.context = StepContext(1e-3, log=True, epoch=1, progress=0.1)
        learned = learned_rows(host, device)
        batch = method_batch(host.to(device), config.data, method.view_plan(), draws, rng)
        out = step(method, batch, optimizer, max_norm=max_norm, scaler=scaler)
        meter.update(out, batch, learned)
        guard.note(0, 1e-3, [0], out)
        if out.logits is None:
            return out, None
        return out, (out.logits.detach()[learned].argmax(1), batch.rows[learned])

    return method, one


@pytest.mark.parametrize("name, label", EVERY)
def test_no_pass_of_the_loop_waits_for_the_device(name, label):
    _, one = make(name, label, META)
    with Waits() as waits:
        for _ in range(2):
            out, _ = one(host_batch(context=name == "CS-ARM-BN"))
    assert out.loss.is_meta
    assert waits.found == []


@pytest.mark.parametrize("name", ["rxrx1", "paper", "iid", "none"])
@pytest.mark.parametrize("side", [32, 264])
def test_no_transform_waits_for_the_device(name, side):
    x = torch.zeros(3, 2, side, side, dtype=torch.uint8)
    with Waits() as waits:
        augment(x.to(META, non_blocking=True), name, torch.Generator().manual_seed(0), (16, 16))
    assert waits.found == []


def test_iid_sends_a_few_numbers_an_image_and_no_table_of_pixels(monkeypatch):
    """A copy from pageable memory waits although it is asked not to, unless it is small."""
    counts, to = [], torch.Tensor.to

    def counted(t, *args, **kwargs):
        counts.append(0 if t.is_meta else t.numel())
        return to(t, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", counted)
    N, C = 4, 2
    augment(torch.zeros(N, C, 64, 64, dtype=torch.uint8, device=META), "iid", torch.Generator())
    assert max(counts) == 2 * N * C, "gain and offset of each channel"


# IRMX-PAIR solves a linear programme on the host in each step of its classifier, and says so.
HEADED = ["SimCLR", "IRMX"]


@pytest.mark.parametrize("name", HEADED)
def test_no_step_of_the_head_phase_waits_for_the_device(name):
    method, _ = make(name, next(iter(SETTINGS[name])), torch.device("cpu"))
    phase, meter = method.head_phase(), Meter(6, META, by_group=True)
    f = torch.ones(len(G), method.head.in_features)
    heads = Heads(method, phase, f).to(META)
    optimizer = head_optimizer(heads, phase)
    ids = torch.zeros(len(G), dtype=torch.int64, device=META)
    train = Features(f.to(META), ids, torch.tensor(G), ids[:, None], 0.0)
    with Waits() as waits:
        for _ in range(2):
            batch = train.batch(torch.tensor([5, 4, 3, 0]))
            out = step(heads, batch, optimizer)
            meter.update(out, batch)
    assert out.loss.is_meta
    assert waits.found == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
@pytest.mark.parametrize("name, label", EVERY)
def test_on_a_gpu_torch_reports_no_synchronisation_in_a_step(name, label, amp):
    cuda = torch.device("cuda", 0)
    try:
        _, one = make(name, label, cuda, amp=amp, channels_last=True)
    except InputError as refusal:  # of scaled losses by methods that cannot use them
        pytest.skip(str(refusal))
    host = host_batch(context=name == "CS-ARM-BN")
    for _ in range(3):  # libraries are loaded and workspaces allocated
        one(host)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out, _ = one(host)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(out.loss)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_optimisers_on_a_gpu_are_fused_and_a_scaled_step_equals_an_unscaled_one():
    cuda, losses = torch.device("cuda", 0), []
    for amp in ("bf16", "fp16"):
        _, one = make("ERM", "default", cuda, amp=amp)
        losses.append([float(one(host_batch())[0].loss) for _ in range(20)])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
