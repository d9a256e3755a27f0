"""The same batches from the same weights: a checkout's own algorithm, ours, and ours inside the checkout.

All of it in float64, so that what is left between them is the order of sums.
"""

from __future__ import annotations

import copy
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from abra_wilds.config.run import RunConfig
from abra_wilds.engine.schedule import learning_rate, make_optimizer, set_learning_rate
from abra_wilds.engine.step import share_of_step, step
from abra_wilds.harness.checkout import Checkout
from abra_wilds.harness.register import Harness, registered
from abra_wilds.harness.session import attribute
from abra_wilds.methods.base import Method
from abra_wilds.types import Batch, StepContext, Target, groups_of

State = dict[str, Tensor]
Columns = tuple[Tensor, Tensor, Tensor]
# torchvision's names, after the index that deepCORAL's (featurizer, classifier) puts before them, and ours.
RENAMED = (
    (r"^(0\.)?conv1\.", "net.stages.stem.0."),
    (r"^(0\.)?bn1\.", "net.stages.stem.1."),
    (r"^(0\.)?layer", "net.stages.res"),
    (r"^(fc|1)\.", "head."),
)


@dataclass
class Trace:
    """What a run did.

    Attributes:
        loss: of each batch; likewise penalty and q, groupDRO's weights, where there are any.
        lr: of each step.
        gradient: of the first step, all parameters in one row.
        state: weights and buffers at the end, under our names.
        y_pred: logits of the last batch in evaluation at the end.
        log: running averages at the end; empty for our own loop.
    """

    loss: list[float] = field(default_factory=list)
    penalty: list[float] = field(default_factory=list)
    q: list[Tensor] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    gradient: list[Tensor] = field(default_factory=list)
    state: State = field(default_factory=dict)
    y_pred: Any = None
    log: dict[str, float] = field(default_factory=dict)

    def note(self, loss: float, penalty: Any, q: Tensor | None) -> None:
        """Enter a batch."""
        self.loss.append(loss)
        self.penalty += [] if penalty is None else [float(penalty)]
        self.q += [] if q is None else [q.clone()]


@dataclass
class Runs:
    """Three traces, and what they came from.

    Attributes:
        theirs: the checkout's own algorithm.
        loop: our method by the functions of our own loop.
        inside: our method as the checkout's algorithm.
        n: batches of an epoch.
        batches: as our loader would have made them.
        method: ours before its first step.
        config: of our runs.
    """

    theirs: Trace
    loop: Trace
    inside: Trace
    n: int
    batches: list[Batch]
    method: Method
    config: RunConfig


class Reached(Exception):
    """run_expt.py has come to its algorithm."""


def gap(a: Any, b: Any) -> float:
    """Largest difference of two series or tensors, relative to their largest entry; 0 if both are empty."""
    a, b = as_double(a), as_double(b)
    assert a.shape == b.shape, f"{tuple(a.shape)} against {tuple(b.shape)}"
    if not a.numel():
        return 0.0
    largest = float(torch.maximum(a.abs(), b.abs()).max())
    return float((a - b).abs().max()) / largest if largest else 0.0


def as_double(values: Any) -> Tensor:
    """A tensor or a series of numbers or tensors as one float64 tensor."""
    parts = values if isinstance(values, list) else [values]
    tensors = [torch.as_tensor(part, dtype=torch.float64) for part in parts]
    return torch.stack(tensors) if tensors else torch.zeros(0, dtype=torch.float64)


def gaps(a: Trace, b: Trace) -> dict[str, float]:
    """The largest relative differences of two runs; of weights and buffers tensor by tensor."""
    assert a.state.keys() == b.state.keys()
    found = {name: gap(getattr(a, name), getattr(b, name)) for name in ("loss", "penalty", "q", "lr")}
    found |= {"gradient": gap(a.gradient, b.gradient), "y_pred": gap(a.y_pred, b.y_pred)}
    return found | {"state": max(gap(a.state[name], b.state[name]) for name in a.state)}


@contextmanager
def double() -> Iterator[None]:
    """Inside, new tensors are float64: WILDS' deepCORAL rounds its penalty to torch's default type."""

    def counts(g: Tensor, n_groups: int) -> Tensor:
        return torch.bincount(g, minlength=n_groups).double()

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        # WILDS' own makes float32 counts whatever the default, and then fails to store them.
        with attribute(import_module("wilds.common.utils"), "get_counts", counts):
            yield
    finally:
        torch.set_default_dtype(before)


def in_double(algorithm: Any) -> Any:
    """An algorithm whose network and plain tensors (IRM's scale, groupDRO's weights) are float64."""
    algorithm.double()
    for name, value in list(vars(algorithm).items()):
        if torch.is_tensor(value) and value.is_floating_point():
            setattr(algorithm, name, value.detach().double().requires_grad_(value.requires_grad))
    return algorithm


@contextmanager
def recording(trace: Trace) -> Iterator[None]:
    """Inside, every optimiser that steps leaves its rate, whoever made it, and the first its gradient."""

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        group = optimizer.param_groups[0]
        trace.lr.append(group["lr"])
        if not trace.gradient:
            trace.gradient = [torch.cat([p.grad.flatten() for p in group["params"]])]

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()


def renamed(state: Mapping[str, Any]) -> State:
    """Copies of the weights and buffers of a network, a checkout's or ours, under our names."""
    found = {}
    for name, value in state.items():
        for theirs, ours in RENAMED:
            name = re.sub(theirs, ours, name)
        if name.startswith(("net.", "head.")):
            found[name] = value.detach().clone()
    return found


def run_in_checkout(algorithm: Any, batches: Sequence[Columns], n: int) -> Trace:
    """An algorithm of the checkout's, its own or ours, through `update` and `evaluate`."""
    trace, network, before = Trace(), algorithm.model, 0.0
    algorithm.train()
    with double(), recording(trace):
        for k, batch in enumerate(batches):
            results = algorithm.update(batch, is_epoch_end=(k + 1) % n == 0)
            penalty, q = results.get("penalty"), getattr(algorithm, "group_weights", None)
            if isinstance(network, Method):
                total, _ = algorithm.means.get("penalty", (None, 0))
                penalty = None if total is None else (total - before) / len(batch[1])
                before, q = total, getattr(network, "q", None)
            trace.note(results["objective"], penalty, q)
        trace.log, trace.state = algorithm.get_log(), renamed(network.state_dict())
        algorithm.eval()
        trace.y_pred = algorithm.evaluate(batches[-1])["y_pred"]
    return trace


def run_loop(config: RunConfig, method: Method, batches: Sequence[Batch], n: int) -> Trace:
    """Our method by the functions that `fit` calls, as it calls them."""
    trace, o = Trace(), config.optim
    optimizer = make_optimizer(o, method)
    size = o.gradient_accumulation_steps
    steps = -(-n // size)
    method.train()
    with recording(trace):
        for k, batch in enumerate(batches):
            epoch, i = divmod(k, n)
            take = (i + 1) % size == 0 or i + 1 == n
            lr = o.lr if method.schedule_lost else learning_rate(o, epoch * steps + i // size, steps)
            set_learning_rate(optimizer, lr)
            method.context = StepContext(lr)
            out = step(method, batch, optimizer, share_of_step(o, i, n), take, o.max_grad_norm)
            trace.note(out.loss.item(), out.logs.get("penalty"), getattr(method, "q", None))
    trace.state = renamed(method.state_dict())
    trace.y_pred = method.eval().predict(batches[-1].x).detach()
    return trace


def pieces(harness: Harness, argv: Sequence[str]) -> Any:
    """(config, datasets, grouper) that the checkout's run_expt.py makes of a command line."""

    def reached(config: Any, datasets: Any, train_grouper: Any, **_: Any) -> None:
        raise Reached(config, datasets, train_grouper)

    with (
        attribute(import_module("algorithms.initializer"), "initialize_algorithm", reached),
        attribute(sys, "argv", ["run_expt.py", *harness.arguments(argv)]),
        pytest.raises(Reached) as found,
    ):
        runpy.run_path(str(harness.checkout.examples / "run_expt.py"), run_name="__main__")
    found.value.args[0].device = torch.device("cpu")
    return found.value.args


def drawn(loader: Any, n: int) -> list[Columns]:
    """The first n batches of a checkout's loader, over as many epochs as they take, in float64."""
    torch.manual_seed(0)
    np.random.seed(0)
    found: list[Columns] = []
    while len(found) < n:
        found += [(x.double(), y, metadata) for x, y, metadata in loader]
    return found[:n]


def as_batch(columns: Columns, grouper: Any) -> Batch:
    """What our loader would have made of it."""
    x, y, metadata = columns
    g = grouper.metadata_to_group(metadata)
    return Batch(x, Target(y), g, metadata, torch.arange(len(y)), groups_of(g))


def three_runs(
    checkout: Checkout,
    algorithm: str,
    flags: Sequence[str],
    ours: Sequence[str] = (),
    fix: Callable[[Any], None] | None = None,
    choose: Callable[[list[Columns], Any], list[Columns]] | None = None,
) -> Runs:
    """Run 20 batches in three ways.

    Args:
        checkout: whose loader and algorithm.
        algorithm: the method's name.
        flags: of both command lines.
        ours: further flags of ours.
        fix: changes the checkout's algorithm before it runs.
        choose: makes other batches of the 20, given the grouper.
    """
    with registered(checkout) as harness:
        make = import_module("algorithms.initializer").initialize_algorithm
        config, datasets, grouper = pieces(harness, ["--algorithm", algorithm, *flags])
        theirs, loader = in_double(make(config, datasets, grouper)), datasets["train"]["loader"]
        batches = drawn(loader, 20)
        batches = batches if choose is None else choose(batches, grouper)
        parts = pieces(harness, ["--algorithm", harness.names[algorithm], *flags, *ours])
        inside = in_double(make(*parts))
        start = renamed(theirs.model.state_dict())
        missing, unexpected = inside.model.load_state_dict(start, strict=False)
        assert not unexpected and not [k for k in missing if k.startswith(("net.", "head."))]
        method, n, as_ours = copy.deepcopy(inside.model), len(loader), [as_batch(b, grouper) for b in batches]
        assert harness.run is not None and len(parts[1]["train"]["loader"]) == n
        if fix is not None:
            fix(theirs)
        loop = run_loop(harness.run, copy.deepcopy(method), as_ours, n)
        traces = run_in_checkout(theirs, batches, n), loop, run_in_checkout(inside, batches, n)
        return Runs(*traces, n, as_ours, method, harness.run)
