"""AdvStyle against loops in NumPy, the ascent of K, and its invariants."""

import copy

import numpy as np
import pytest
import torch

from abra_wilds.engine.step import step
from abra_wilds.methods.styles.advstyle import AdvStyleConfig
from abra_wilds.nets.staged import TAP_POINTS
from abra_wilds.types import StepContext
from tests.helpers import CHANNELS, array, assert_is_erm, make_batch, make_method, worst
from tests.methods.styles import reference_styles as slow
from tests.methods.styles.test_dsu import record

G = (0, 1, 1, 0, 2, 2)
BY_K = AdvStyleConfig(p_adv=1.0, p_dsu=0.0)  # every point shifts by K in every pass
LR = 0.1  # theta's, in tests


def magnitudes(method):
    """{point: (K_mu, K_sigma)} as copies."""
    return {p: (method.K(p).K_mu.clone(), method.K(p).K_sigma.clone()) for p in method.at}


def set_magnitudes(method, value):
    """Fill every K as if batches had been seen."""
    for point in method.at:
        method.K(point).K_mu.fill_(value)
        method.K(point).K_sigma.fill_(value)
        method.K(point).seen.fill_(1)


def replaying(method, seed=3):
    """Let a method draw the same noise in every pass."""
    original = method.forward

    def forward(batch):
        torch.manual_seed(seed)
        return original(batch)

    method.forward = forward
    return method


def sgd(method, lr=0.0):
    return torch.optim.SGD(method.parameters(), lr=lr)


@pytest.mark.parametrize("w", [None, 0.63])
@pytest.mark.parametrize("at", [TAP_POINTS, ("res3", "res1")])
def test_loss_equals_the_slow_loop_with_points_that_shift_resample_and_rest(at, w):
    method, batch = make_method("AdvStyle", AdvStyleConfig(at=at, eps=1e-3)), make_batch(G, w=w)
    set_magnitudes(method, 0.4)
    branches = {p: i % 2 == 0 for i, p in enumerate(method.at) if i % 3 < 2}  # by K, as DSU, not at all
    method.active = lambda: branches
    drawn = record(method)
    out = method(batch)
    layers = {}
    for (point, by_K), pair in zip(branches.items(), drawn, strict=True):
        e, K = tuple(map(array, pair)), (0.4, 0.4) if by_K else None
        layers[point] = lambda X, e=e, K=K: slow.noisy(X, e, 1e-3, K=K)
    assert out.loss.item() == pytest.approx(slow.loss(method, batch, layers), abs=1e-10)
    assert abs(out.loss.item() - make_method("ERM")(batch).loss.item()) > 1e-3


def test_K_starts_as_the_spread_of_the_first_batch_that_it_shifts_and_stays():
    cfg = AdvStyleConfig(at=("conv1",), p_adv=1.0, p_dsu=0.0, w=0.0, eps=1e-3)
    method, batch = make_method("AdvStyle", cfg), make_batch(G)
    assert worst(method.K("conv1").K_mu, torch.full((3,), 0.1)) < 1e-7
    method.active = lambda: {"conv1": False}
    method(batch)  # as DSU: K is not asked
    assert method.K("conv1").seen == 0
    del method.active
    X = array(method.net.stages["stem"][0](batch.x))
    for other in (batch, make_batch(G, seed=5)):
        step(method, other, sgd(method))
        for K, s in zip(magnitudes(method)["conv1"], slow.instance_stats(X, 1e-3), strict=True):
            np.testing.assert_allclose(array(K), slow.spread(s, 1e-3), atol=1e-12)
    assert method.K("conv1").seen == 2


@pytest.mark.parametrize("w", [None, 0.63])
@pytest.mark.parametrize("cfg, K", [(BY_K, 0.0), (AdvStyleConfig(p_adv=0.0, p_dsu=0.0), 0.3)])
def test_with_K_zero_or_both_probabilities_loss_and_gradients_are_those_of_erm(cfg, K, w):
    method = make_method("AdvStyle", cfg)
    set_magnitudes(method, K)
    assert_is_erm(method, make_batch(G, w=w))


def test_in_evaluation_the_step_is_the_prediction_and_K_rests():
    method, batch = make_method("AdvStyle", BY_K).eval(), make_batch(G)
    assert torch.equal(method(batch).logits, method.predict(batch.x))
    assert method.K("res1").seen == 0


@pytest.mark.parametrize(("w", "k_lr", "size"), [(10.0, None, 10 * LR), (3.0, 0.02, 0.06)])
def test_K_moves_by_w_times_its_rate_times_the_slope_of_the_slow_loss(w, k_lr, size):
    cfg = AdvStyleConfig(at=("conv1", "res2"), p_adv=1.0, p_dsu=0.0, w=w, k_lr=k_lr, eps=1e-3)
    method, batch = make_method("AdvStyle", cfg), make_batch(G, w=0.63)
    set_magnitudes(method, 0.3)
    before, drawn = magnitudes(method), record(method)
    step(method, batch, sgd(method))
    noise = {p: tuple(map(array, pair)) for p, pair in zip(method.at, drawn, strict=True)}
    K = {p: np.stack([array(k) for k in before[p]]) for p in method.at}
    layers = {p: lambda X, p=p: slow.noisy(X, noise[p], 1e-3, K=K[p]) for p in method.at}
    for point in method.at:
        slope, h = np.zeros_like(K[point]), 1e-5
        for i in np.ndindex(*slope.shape):
            values = []
            for sign in (1, -1):
                K[point][i] += sign * h
                values.append(slow.loss(method, batch, layers))
                K[point][i] -= sign * h
            slope[i] = (values[0] - values[1]) / (2 * h)
        moved = np.stack([array(k) for k in magnitudes(method)[point]]) - K[point]
        np.testing.assert_allclose(moved, size * slope, atol=1e-8)
        assert np.abs(moved).max() > 1e-3 * size


def test_a_small_step_of_K_raises_the_loss_for_the_same_noise():
    cfg = AdvStyleConfig(p_adv=1.0, p_dsu=0.0, w=1.0, k_lr=1e-3)
    method, batch = replaying(make_method("AdvStyle", cfg)), make_batch(G)
    set_magnitudes(method, 0.3)
    losses = [step(method, batch, sgd(method)).loss.item() for _ in range(6)]
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]


def test_the_gradient_of_theta_does_not_depend_on_w():
    found, batch = [], make_batch(G)
    for w in (0.0, 10.0):
        method = replaying(make_method("AdvStyle", AdvStyleConfig(p_adv=1.0, p_dsu=0.0, w=w)))
        method(batch).loss.backward()
        found.append({n: p.grad for n, p in method.named_parameters()})
    assert worst(*found) == 0.0


def test_K_is_no_parameter_and_is_saved():
    method = make_method("AdvStyle")
    assert not [n for n, _ in method.named_parameters() if "magnitudes" in n]
    saved = {n for n in method.state_dict() if n.startswith("magnitudes")}
    assert saved == {f"magnitudes.{p}.{b}" for p in TAP_POINTS for b in ("K_mu", "K_sigma", "seen")}


def test_accumulated_passes_move_K_once_by_their_weighted_gradients():
    batches = [make_batch(G, seed=s) for s in (1, 2)]
    moved = []
    for alone in ([0], [1], [0, 1]):
        method = replaying(make_method("AdvStyle", BY_K))
        set_magnitudes(method, 0.3)
        before, optimizer = magnitudes(method), sgd(method)
        for i in alone:
            step(method, batches[i], optimizer, share=0.5, take=i == alone[-1])
        moved.append({p: torch.stack(k) - torch.stack(before[p]) for p, k in magnitudes(method).items()})
    first, second, both = moved
    assert worst({p: first[p] + second[p] for p in both}, both) < 1e-12
    assert min(t.abs().max() for t in both.values()) > 1e-6


def test_a_pass_without_gradients_moves_nothing_later_and_keeps_nothing():
    method, batch = make_method("AdvStyle", BY_K), make_batch(G)
    with torch.no_grad():
        method(batch)
    assert not method.K("res1").kept
    before = magnitudes(method)
    method(batch)  # its loss is never differentiated
    method.after_step()
    assert not method.K("res1").kept
    assert all(
        worst(a, b) == 0 for p in method.at for a, b in zip(before[p], magnitudes(method)[p], strict=True)
    )


def test_branches_come_with_their_probabilities():
    torch.manual_seed(0)
    for cfg, want in ((AdvStyleConfig(), (1 / 3, 1 / 3)), (AdvStyleConfig(p_adv=0.5, p_dsu=0.1), (0.5, 0.1))):
        method = make_method("AdvStyle", cfg)
        draws = [by_K for _ in range(1000) for by_K in method.active().values()]
        counts = (sum(draws) / 6000, (len(draws) - sum(draws)) / 6000)
        assert counts == pytest.approx(want, abs=0.025)


def test_a_rate_left_unset_is_that_of_theta():
    method = make_method("AdvStyle")
    method.context = StepContext(0.02)
    assert method.step_size == method.cfg.w * 0.02


def test_the_size_of_K_is_logged_where_it_is_read():
    method, batch = make_method("AdvStyle", AdvStyleConfig(at=("res1", "res4"))), make_batch(G)
    set_magnitudes(method, -0.3)
    method.active = dict
    assert method(batch).logs["K_mean"].item() == pytest.approx(0.3)
    method.context = StepContext(LR, log=False)
    assert method(batch).logs == {}
    assert method.K("res1").K_mu.shape == (CHANNELS["res1"],)


def test_a_copy_of_a_method_in_the_middle_of_a_step_can_be_made():
    method = make_method("AdvStyle", BY_K)
    method(make_batch(G)).loss.backward()
    twin = copy.deepcopy(method)
    for m in (method, twin):
        m.after_step()
    a, b = method.state_dict(), twin.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
