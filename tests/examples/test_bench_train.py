"""What the benchmark of training refuses before it writes, and what it counts."""

import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from abra_wilds.data.samplers.batches import PlateSampler
from abra_wilds.types import InputError
from tests import runs

EXAMPLES = runs.REPOSITORY / "examples"


@pytest.fixture
def train(monkeypatch):
    """The module examples/benchmarks/bench_train.py, imported as its neighbours import one another."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return pytest.importorskip("bench_train")


@pytest.fixture
def plates_of(train, tmp_path, monkeypatch):
    """How many plates of a data set some flags take, on a disk of so many GB."""
    from bench_random import SHARED, check_random

    def plates(name, *flags, disk=100, shared=8):
        Usage = namedtuple("Usage", "total used free")
        free = {SHARED: shared, tmp_path: disk}
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free[path] * 1e9))
        return check_random(name, tmp_path, train.make_arguments().parse_args(list(map(str, flags))))

    return plates


def test_the_documented_command_has_rounds_that_fit_into_an_epoch(train, plates_of, capsys):
    (documented,) = [line.split()[2:] for line in train.__doc__.splitlines() if "bench_train.py" in line]
    assert documented[:2] == ["--amp", "bf16"]
    for workers in (0, 2, 16):
        assert plates_of("rxrx1", *documented, "--workers", workers) == 132
        assert plates_of("rxrx1_6ch", *documented, "--workers", workers) == 24
    assert "33,792 random images of (3, 256, 256) need 6.6 GB of disk" in capsys.readouterr().err


def test_what_cannot_be_measured_is_refused_before_an_image_is_written(plates_of):
    with pytest.raises(InputError, match=r"--wells is 20 .*128"):
        plates_of("rxrx1", "--wells", 20)
    with pytest.raises(InputError, match=r"24 plates of rxrx1_6ch .*48 batches .*116"):
        plates_of("rxrx1_6ch", "--steps", 100, "--workers", 16)
    with pytest.raises(InputError, match=r"9\.7 GB .*9\.0 GB .*--gigabytes"):
        plates_of("rxrx1_6ch", disk=9)
    with pytest.raises(InputError, match=r"1\.6 GB .*/dev/shm .*0\.1 GB"):
        plates_of("rxrx1_6ch", "--workers", 16, shared=0.064)


def test_a_refusal_is_one_sentence_and_no_traceback(tmp_path):
    command = ("examples/benchmarks/bench_train.py", "--wells", 20, "--device", "cpu")
    done = runs.process(*command)
    assert done.returncode == 2 and done.stderr.startswith("error: --wells is 20")
    done = runs.process(*command, "--json", tmp_path / "no" / "t.json")
    assert done.returncode == 2 and f"{tmp_path}/no for t.json" in done.stderr


def test_of_a_gpu_only_kernels_count_and_none_of_their_time_twice(train):
    def event(key, kind, cpu, device, named=False, sizes=()):
        times = {"self_cpu_time_total": cpu, "self_device_time_total": device}
        about = {"key": key, "input_shapes": sizes, "device_type": kind, "is_user_annotation": named}
        return SimpleNamespace(**about, **times)

    events = [
        event("aten::convolution", DeviceType.CPU, 20, 75),
        event("aten::add_", DeviceType.CPU, 60, 25, sizes=[[2, 3], [2, 3], []]),
        event("conv_kernel", DeviceType.CUDA, 0, 75),
        event("add_kernel", DeviceType.CUDA, 0, 25),
        event("Optimizer.step#AdamW.step", DeviceType.CUDA, 0, 25, named=True),
        event("Optimizer.step#AdamW.step", DeviceType.CPU, 20, 0, named=True),
    ]
    from bench_common import busiest

    found = {e["operator"]: e["share"] for e in busiest(events, on_gpu=True)}
    assert found == {"conv_kernel": 0.75, "add_kernel": 0.25}
    on_cpu = [e["operator"] for e in busiest(events[:2], on_gpu=False)]
    assert on_cpu == ["aten::add_ 2x3 2x3", "aten::convolution"]


def test_ratios_are_those_of_medians_over_rounds(train):
    def rows(steps, fed):
        return [{"step": s, "both": s * f, "loader": 9.0} for s, f in zip(steps, fed, strict=True)]

    found = train.ratios({"ERM": rows([10, 20, 90], [0.5, 1, 0.2]), "ABRA": rows([8, 16, 30], [1, 1, 1])})
    assert found["time_of_abra"] == 20 / 16 and found["methods"]["ABRA"]["fed"] == 1
    assert found["methods"]["ERM"] == {"step": 20, "both": 18, "loader": 9, "fed": 0.9}


def test_a_round_draws_the_first_batches_of_an_epoch_and_no_more(train):
    from bench_random import Start

    whole = PlateSampler([k // 8 for k in range(64)], 4, seed=3)
    start = Start(whole, 5)
    for epoch in (0, 1):
        whole.set_epoch(epoch)
        start.set_epoch(epoch)
        assert runs.drawn(start) == runs.drawn(whole)[:5] and len(start) == 5
