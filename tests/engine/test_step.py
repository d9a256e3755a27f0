"""One optimisation step: averaged gradients, clipping, scaled losses, forgotten moments, what stays put."""

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from abra_wilds.engine.step import step
from abra_wilds.methods.abra.config import ABRAConfig
from abra_wilds.methods.erm import ERM
from abra_wilds.nets.staged import STAGES, StagedNet
from abra_wilds.types import StepOutput
from tests.helpers import make_batch, make_info, make_method, worst


def plain_method(seed=0):
    """ERM on a net without batch norm, whose gradient of a big batch is the mean of its parts' gradients."""
    torch.manual_seed(seed)
    widths = (3, 4, 4, 4, 5, 6)
    stages = {
        name: nn.Sequential(nn.Conv2d(a, b, 1), nn.Tanh())
        for name, a, b in zip(STAGES, widths[:-1], widths[1:], strict=True)
    }
    net = StagedNet(stages, dict(zip(STAGES, widths[1:], strict=True)))
    return ERM(net, make_info(), ERM.Config()).double().train()


def parts(n=3, rows=4):
    """Batches, and all of them as one."""
    batches = [make_batch((0,) * rows, seed=s) for s in range(n)]
    big = make_batch((0,) * (n * rows))
    x = torch.cat([b.x for b in batches])
    y = torch.cat([b.target.y for b in batches])
    return batches, type(big)(x, type(big.target)(y), big.g, big.metadata, big.rows, big.groups)


def weights(method):
    """Copies of all parameters."""
    return {name: p.detach().clone() for name, p in method.named_parameters()}


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.Adam(p, 0.01)]
)
@pytest.mark.parametrize("max_norm", [None, 1e-3])
def test_accumulated_batches_move_theta_as_one_big_batch(make, max_norm):
    batches, big = parts()
    a, b = plain_method(), plain_method()
    by_parts, at_once = make(a.parameters()), make(b.parameters())
    for _ in range(2):
        for i, batch in enumerate(batches):
            step(a, batch, by_parts, 1 / 3, i == 2, max_norm)
        step(b, big, at_once, max_norm=max_norm)
    for name, p in weights(a).items():
        torch.testing.assert_close(p, weights(b)[name], rtol=1e-9, atol=1e-12)


def test_a_batch_that_does_not_end_the_step_only_adds_gradients():
    method, (batches, _) = plain_method(), parts()
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    calls = []
    method.after_step = lambda: calls.append(1)
    before = weights(method)
    step(method, batches[0], optimizer, 0.5, take=False)
    assert all(torch.equal(p, before[name]) for name, p in method.named_parameters())
    assert all(p.grad is not None for p in method.parameters()) and not calls
    step(method, batches[1], optimizer, 0.5, take=True)
    assert all(p.grad is None for p in method.parameters()) and calls == [1]
    assert not torch.equal(method.head.weight, before["head.weight"])


@pytest.mark.parametrize("max_norm", [0.01, 1e3])
def test_clipping_bounds_the_norm_of_a_step_and_nothing_else(max_norm):
    method, (batches, _) = plain_method(), parts()
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    before = weights(method)
    loss = method(batches[0]).loss
    grads = torch.autograd.grad(loss, list(method.parameters()))
    norm = torch.sqrt(sum(g.square().sum() for g in grads))
    step(method, batches[0], optimizer, max_norm=max_norm)
    scale = min(1.0, max_norm / (float(norm) + 1e-6))
    for (name, p), g in zip(method.named_parameters(), grads, strict=True):
        torch.testing.assert_close(before[name] - p.detach(), scale * g, rtol=1e-6, atol=1e-12)


def test_the_share_weighs_the_gradient_and_leaves_the_reported_loss():
    method, (batches, _) = plain_method(), parts()
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    whole = method(batches[0]).loss
    out = step(method, batches[0], optimizer, 0.25, take=False)
    assert torch.equal(out.loss, whole)
    grads = torch.autograd.grad(method(batches[0]).loss, list(method.parameters()))
    for p, g in zip(method.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, 0.25 * g)


def test_fresh_optimizer_forgets_the_moments_in_place():
    """The step equals the first one of a new Adam, and the learning rate set by the schedule stays."""
    method, twin = plain_method(), plain_method()
    batches, _ = parts()
    optimizer = torch.optim.Adam(method.parameters(), 0.01)
    step(method, batches[0], optimizer)
    twin.load_state_dict(method.state_dict())
    optimizer.param_groups[0]["lr"] = 0.003
    forward = method.forward

    def fresh(batch):
        out = forward(batch)
        return StepOutput(out.loss, out.logits, out.logs, fresh_optimizer=True)

    method.forward = fresh
    step(method, batches[1], optimizer)
    step(twin, batches[1], torch.optim.Adam(twin.parameters(), 0.003))
    assert all(torch.equal(p, q) for p, q in zip(method.parameters(), twin.parameters(), strict=True))
    assert {int(s["step"]) for s in optimizer.state.values()} == {1}
    assert optimizer.param_groups[0]["lr"] == 0.003


def test_no_optimiser_sees_K():
    """A large weight decay moves theta alone; K moves by its own ascent, which a zero alpha stops."""
    method = make_method("ABRA", ABRAConfig(alpha=0.0))
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0, weight_decay=0.5)
    step(method, make_batch(), optimizer)
    K = {name: b.clone() for name, b in method.named_buffers() if ".K_" in name}
    assert K
    step(method, make_batch(seed=2), optimizer)
    assert all(torch.equal(dict(method.named_buffers())[name], b) for name, b in K.items())


def scaled(scale=2.0**10):
    return GradScaler("cpu", init_scale=scale, growth_interval=2)


@pytest.mark.parametrize("max_norm", [None, 1e-3])
def test_a_scaled_loss_takes_the_same_steps_clipped_or_not(max_norm):
    a, b = make_method("ERM"), make_method("ERM")
    sgd = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (a, b)]
    scaler = scaled()
    for i in range(4):
        batch, end = make_batch(seed=i), i % 2 == 1
        step(a, batch, sgd[0], 0.5, end, max_norm)
        step(b, batch, sgd[1], 0.5, end, max_norm, scaler=scaler)
    assert worst(dict(a.named_parameters()), dict(b.named_parameters())) < 1e-12
    assert scaler.get_scale() == 2.0**11  # grown after two steps


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_gradients_that_overflow_move_nothing_but_the_scale(max_norm):
    method, scaler = make_method("ERM", dtype=torch.float32), scaled(2.0**127)
    optimizer = torch.optim.SGD(method.parameters(), 0.1, momentum=0.9)
    calls = []
    method.after_step = lambda: calls.append(1)
    before = weights(method)
    batch = make_batch(dtype=torch.float32)
    out = step(method, batch, optimizer, 1e4, max_norm=max_norm, scaler=scaler)
    assert out.loss.isfinite()
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in method.named_parameters())
    assert scaler.get_scale() == 2.0**126
    assert calls == [1]


def test_K_ascends_alike_whatever_the_scale_of_the_loss():
    found = []
    for scaler in (scaled(), GradScaler(enabled=False)):
        method = make_method("ABRA", ABRAConfig(alpha=0.1))
        optimizer = torch.optim.SGD(method.parameters(), 0.1)
        torch.manual_seed(0)
        step(method, make_batch(), optimizer, scaler=scaler)
        found.append({n: b.clone() for n, b in method.named_buffers() if ".K_" in n})
    assert found[0] and worst(*found) == 0
