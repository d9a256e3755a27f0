"""The harness's own ERM, IRM, deepCORAL and groupDRO against ours: the same numbers, batch by batch.

Most tests run 20 batches of a checkout's loader in three ways from the same weights (see parity.py): its own
algorithm, our method by the functions of our own loop, and our method as an algorithm of the checkout. Every
difference between them is an option, and is shown to be that option and nothing else.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from importlib import import_module
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from abra_wilds.config.optim import OptimConfig
from abra_wilds.engine.schedule import learning_rate
from abra_wilds.harness.checkout import Checkout
from abra_wilds.harness.register import registered
from abra_wilds.nets import backbones
from abra_wilds.nets.backbones import torchvision_models
from abra_wilds.nets.staged import STAGES, StagedNet
from abra_wilds.results.provenance import commit
from tests.harness.parity import Columns, Runs, gap, gaps, renamed, three_runs

LR = 1e-3
SETTINGS = {
    "ERM": "",
    "IRM": "--n_groups_per_batch 4 --irm_lambda 2 --irm_penalty_anneal_iters 10",
    "deepCORAL": "--n_groups_per_batch 4 --coral_penalty_weight 10",
    "groupDRO": "--group_dro_step_size 0.3 --max_grad_norm 1",
}
DONE: dict[tuple[Any, ...], Runs] = {}  # what several tests look at
COMPAT = {"IRM": "--irm_wilds_bug_compat true"}
# Sums of float64 in another order. Adam divides a gradient by its own size, and where that is next to nothing
# its rounding reaches the weight.
TOLERANCE = {"loss": 1e-10, "penalty": 1e-10, "q": 1e-10, "lr": 1e-12, "gradient": 1e-10}
TOLERANCE |= {"state": 1e-8, "y_pred": 1e-8}


def narrow_resnet(**_: Any) -> Any:
    """resnet18 with an eighth of its channels."""
    resnet = torchvision_models().resnet

    class Narrow(resnet.ResNet):  # type: ignore[misc, name-defined]
        def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
            self.inplanes = 8 if planes == 64 else self.inplanes
            return super()._make_layer(block, planes // 8, *args, **kwargs)

    net = Narrow(resnet.BasicBlock, [2, 2, 2, 2])
    net.conv1, net.bn1, net.fc = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(64, 1000)
    return net


def narrow_backbone(*_: Any, **__: Any) -> StagedNet:
    net = narrow_resnet()
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    parts = (stem, net.layer1, net.layer2, net.layer3, net.layer4)
    channels = (8, 8, 16, 32, 64)
    return StagedNet(dict(zip(STAGES, parts, strict=True)), dict(zip(STAGES, channels, strict=True)))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """--model resnet18 means the narrow one, which takes a second for what the whole one takes eight for."""
    monkeypatch.setattr(torchvision_models(), "resnet18", narrow_resnet)
    monkeypatch.setitem(backbones.BACKBONES, "resnet18", narrow_backbone)


@pytest.fixture(params=["narrow", pytest.param("resnet18", marks=pytest.mark.slow)])
def network(request: pytest.FixtureRequest) -> str:
    if request.param == "narrow":
        request.getfixturevalue("narrow")
    return request.param


@pytest.fixture
def run(checkout: Checkout, root: Path, tmp_path: Path) -> Callable[..., Runs]:
    """`three_runs` of an algorithm with its settings; 8 epochs of 4 batches would be the whole run."""
    line = f"--dataset rxrx1 --root_dir {root} --log_dir {tmp_path / 'log'} --n_epochs 8 --batch_size 16"
    line += f" --model resnet18 --model_kwargs pretrained=False --lr {LR} --weight_decay 1e-5"
    line += " --optimizer Adam"
    line += " --scheduler cosine_schedule_with_warmup --scheduler_kwargs num_warmup_steps=5"
    line += " --loader_kwargs num_workers=0 pin_memory=False"

    def run(algorithm: str, flags: str = "", ours: str | None = None, **kwargs: Any) -> Runs:
        both = f"{line} {SETTINGS[algorithm]} {flags}".split()
        ours = COMPAT.get(algorithm, "") if ours is None else ours
        if kwargs:
            return three_runs(checkout, algorithm, both, ours.split(), **kwargs)
        key = (checkout.path, backbones.BACKBONES["resnet18"], algorithm, flags, ours)
        if key not in DONE:
            DONE[key] = three_runs(checkout, algorithm, both, ours.split())
        return DONE[key]

    return run


def published(scheduler: str, step: int, warm: int, total: int) -> float:
    """The share of --lr by transformers' formulas: inside a checkout its names may be ours."""
    if step < warm:
        return step / warm
    p = (step - warm) / (total - warm)
    return 1 - p if scheduler == "linear_schedule_with_warmup" else (1 + math.cos(math.pi * p)) / 2


def agree(runs: Runs, but: str = "") -> None:
    for ours in (runs.loop, runs.inside):
        found = {name: value for name, value in gaps(runs.theirs, ours).items() if name != but}
        assert all(value <= TOLERANCE[name] for name, value in found.items()), found


def close(a: Any, b: Any, rel: float = 1e-10) -> bool:
    return gap(a, b) <= rel


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_20_batches_leave_the_same_numbers_whoever_runs_them(run, network, algorithm, checkout):
    runs = run(algorithm)
    agree(runs)
    for name, ours in (("our loop", runs.loop), ("inside", runs.inside)):
        found = gaps(runs.theirs, ours)
        shown = ", ".join(f"{kind} {value:.1e}" for kind, value in found.items())
        print(f"\n{algorithm} on {network}, {name}: {shown}")
        if record := os.environ.get("PARITY_RECORD"):
            about = {"algorithm": algorithm, "network": network, "ours": name, "checkout": checkout.commit()}
            with open(record, "a") as file:
                file.write(json.dumps({**about, "gaps": found, "commit": commit()}) + "\n")

    theirs, start = runs.theirs, renamed(runs.method.state_dict())
    assert len(theirs.loss) == len(theirs.lr) == 20 and runs.n == 4
    assert all(gap(start[name], theirs.state[name]) > 0.001 for name in start)
    assert max(theirs.lr) == LR > 1.05 * min(theirs.lr[5:])
    assert len(theirs.penalty) == (20 if algorithm in ("IRM", "deepCORAL") else 0)
    assert all(abs(penalty) > 1e-3 for penalty in theirs.penalty)
    assert algorithm != "groupDRO" or gap(theirs.q[0], theirs.q[-1]) > 0.1


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("algorithm", SETTINGS)
def test_running_averages_of_the_checkouts_log_are_the_same(run, algorithm):
    runs = run(algorithm)
    theirs, inside = runs.theirs.log, runs.inside.log
    assert {"objective", "loss_avg", "acc_avg"} < theirs.keys()
    assert all(name.startswith("weight_group:") for name in theirs.keys() - inside.keys())
    shared = sorted(theirs.keys() & inside.keys())
    assert [theirs[k] for k in shared] == pytest.approx([inside[k] for k in shared], rel=1e-10, nan_ok=True)


@pytest.mark.usefixtures("narrow")
def test_irm_stays_at_lr_from_annealing_on_as_in_wilds_only_with_bug_compat(run):
    compat, default = run("IRM"), run("IRM", ours="")
    cosine = [LR * published("cosine", k, 5, 32) for k in range(20)]
    for trace in (compat.theirs, compat.loop, compat.inside):
        assert close(trace.lr, cosine[:10] + [LR] * 10)
    for trace in (default.loop, default.inside):
        assert close(trace.lr, cosine)
        # Batch 10 still meets the weights of before annealing.
        assert close(trace.loss[:11], compat.theirs.loss[:11])
        assert close(trace.penalty[:11], compat.theirs.penalty[:11])
        assert not close(trace.loss[11:], compat.theirs.loss[11:], 1e-6)


@pytest.mark.usefixtures("narrow")
def test_irm_by_default_is_wilds_irm_that_forgets_moments_instead_of_making_an_optimizer(run):
    def fix(algorithm: Any) -> None:
        def forgetful(config: Any, model: Any) -> Any:
            algorithm.optimizer.state.clear()
            return algorithm.optimizer

        import_module("algorithms.IRM").initialize_optimizer = forgetful

    runs = run("IRM", ours="", fix=fix)
    agree(runs)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("algorithm", "flags"),
    [
        ("ERM", "--batch_size 13 --optimizer SGD --optimizer_kwargs momentum=0.9 --lr 0.05"),
        ("IRM", "--batch_size 12 --irm_penalty_anneal_iters 6"),
        ("groupDRO", "--batch_size 13"),
    ],
)
def test_accumulate_sum_is_what_wilds_does(run, algorithm, flags):
    ours = f"--accumulate sum {COMPAT.get(algorithm, '')}"
    runs = run(algorithm, f"{flags} --gradient_accumulation_steps 2", ours)
    agree(runs)
    # Five batches make an epoch, and its third step holds one.
    assert runs.n == 5 and len(runs.theirs.lr) == 12


@pytest.mark.usefixtures("narrow")
def test_accumulate_mean_is_wilds_with_gradients_divided_by_the_batches_of_a_step(run):
    def fix(algorithm: Any) -> None:
        sizes = cycle((2, 2, 1))

        def average(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            size = next(sizes)
            for p in optimizer.param_groups[0]["params"]:
                p.grad /= size

        algorithm.optimizer.register_step_pre_hook(average)

    flags = "--batch_size 13 --optimizer SGD --optimizer_kwargs momentum=0.9 --lr 0.05"
    runs = run("ERM", f"{flags} --gradient_accumulation_steps 2", fix=fix)
    method, parts = runs.method.train(), []
    for batch in runs.batches[:2]:
        loss = F.cross_entropy(method.predict(batch.x), batch.target.y)
        parts.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(method.parameters()))]))
    agree(runs, but="gradient")
    for trace in (runs.loop, runs.inside):
        assert close(trace.gradient, [(parts[0] + parts[1]) / 2])
        assert close(runs.theirs.gradient, [parts[0] + parts[1]])


def of_sizes(*sizes: int) -> Callable[[list[Columns], Any], list[Columns]]:
    """Makes one batch with so many rows of each group, in no order, of images that leave 2 x 2 to pool."""

    def choose(batches: list[Columns], grouper: Any) -> list[Columns]:
        x, y, metadata = (torch.cat(column) for column in zip(*batches, strict=True))
        g = grouper.metadata_to_group(metadata)
        members = [torch.nonzero(g == group).flatten() for group in g.unique()]
        rows = torch.cat([found[:size] for found, size in zip(members, sizes, strict=True)])
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
        return [(x[rows].repeat(1, 1, 2, 2), y[rows], metadata[rows])]

    return choose


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("algorithm", "sizes"),
    [("ERM", (5, 3, 2, 6)), ("IRM", (5, 3, 2, 7)), ("deepCORAL", (5, 3, 2, 6)), ("groupDRO", (5, 0, 3, 8))],
)
def test_a_step_on_groups_of_odd_and_unequal_sizes_is_the_same(run, algorithm, sizes):
    runs = run(algorithm, "--scheduler_kwargs num_warmup_steps=0", choose=of_sizes(*sizes))
    agree(runs)
    assert runs.theirs.lr == [LR] and len(runs.batches[0].groups) == sum(size > 0 for size in sizes)
    if algorithm == "groupDRO":
        q = runs.theirs.q[0]
        assert torch.count_nonzero(q) == 4 and q[q > 0].argmin() == sizes.index(0)


@pytest.mark.parametrize("scheduler", ["cosine_schedule_with_warmup", "linear_schedule_with_warmup"])
@pytest.mark.parametrize("warm", [0, 5, 11])
def test_a_schedule_with_warmup_is_that_of_wilds_over_a_whole_run(checkout, scheduler, warm):
    kwargs = {"num_warmup_steps": warm}
    ours, theirs = both_schedules(checkout, scheduler, kwargs)
    assert ours == pytest.approx(theirs, rel=1e-12, abs=0)
    formula = [LR * published(scheduler, k, warm, 12) for k in range(12)]
    assert ours == pytest.approx(formula, rel=1e-12, abs=0)


@pytest.mark.parametrize("kwargs", [{"step_size": 1}, {"step_size": 2, "gamma": 0.5}])
def test_step_lr_is_that_of_wilds_over_a_whole_run(checkout, kwargs):
    ours, theirs = both_schedules(checkout, "StepLR", kwargs)
    assert ours == pytest.approx(theirs, rel=1e-12, abs=0) and len(set(theirs)) > 1


def both_schedules(checkout: Checkout, scheduler: str, kwargs: Any) -> tuple[list[float], list[float]]:
    """Rates of 4 epochs of 3 steps: ours, and the checkout's own, stepped as its loop does."""
    config = OptimConfig(lr=LR, n_epochs=4, scheduler=scheduler, scheduler_kwargs=kwargs)
    theirs = []
    with registered(checkout):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
        make = import_module("scheduler").initialize_scheduler
        wanted = SimpleNamespace(scheduler=scheduler, scheduler_kwargs=kwargs)
        made = make(wanted, optimizer, n_train_steps=12)
        for k in range(12):
            theirs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if made.step_every_batch or (k + 1) % 3 == 0:
                made.step()
    return [learning_rate(config, k, 3) for k in range(12)], theirs
