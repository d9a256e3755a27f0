"""TENT and SAR against slow copies, by torch's training mode, optimiser and autograd."""

import copy
import math

import pytest
import torch

from abra_wilds.tta.adapters import own_statistics
from abra_wilds.tta.literature import sar as sar_module
from abra_wilds.tta.literature.affine import affine_copies, entropies, gradients
from abra_wilds.tta.literature.sar import sar
from abra_wilds.tta.literature.tent import tent
from abra_wilds.types import InputError
from tests import runs
from tests.helpers import worst
from tests.tta.reference import norms_of
from tests.tta.test_adapters import plate, trained

LR, MOMENTUM, RHO = 0.00025, 0.9, 0.05  # of the papers


def learner(method, frozen=()):
    """A copy whose batch norms are in training mode, and what learns of it."""
    twin = copy.deepcopy(method)
    norms = norms_of(twin)
    for m in norms:
        m.train()
    return twin, [p for i, m in enumerate(norms) if i not in frozen for p in (m.weight, m.bias)]


def entropy(logits):
    """Image by image, from probabilities."""
    p = torch.softmax(logits, 1)
    return torch.stack([-sum(v * torch.log(v) for v in row) for row in p])


def slow_tent(method, passes, steps=1):
    twin, parameters = learner(method)
    sgd, found = torch.optim.SGD(parameters, LR, momentum=MOMENTUM), []
    for x in passes:
        for _ in range(steps):
            logits = twin.predict(x)
            sgd.zero_grad()
            entropy(logits).mean().backward()
            sgd.step()
        found.append(logits.detach())
    return found, [p.detach() for p in parameters]


def slow_sar(method, passes, margin=0.4, recovery=0.2):
    """The last stage's batch norm, the fifth, stays; the moving average starts again after a recovery."""
    twin, parameters = learner(method, frozen=(4,))
    start = [p.detach().clone() for p in parameters]
    sgd, average, found, recoveries = torch.optim.SGD(parameters, LR, momentum=MOMENTUM), None, [], 0
    for x in passes:
        logits = twin.predict(x)
        found.append(logits.detach())
        each = entropy(logits)
        certain = each < margin * math.log(logits.shape[1])
        g = torch.autograd.grad(each[certain].mean(), parameters) if certain.any() else None
        own = [p.detach().clone() for p in parameters]
        length = math.sqrt(sum(float((t**2).sum()) for t in g)) if g else 0
        with torch.no_grad():
            for p, t in zip(parameters, g or (), strict=bool(g)):
                p += RHO * t / length
        each = entropy(twin.predict(x))
        certain &= each < margin * math.log(logits.shape[1])
        sgd.zero_grad(set_to_none=False)
        for p in parameters:
            p.grad = torch.zeros_like(p)
        if certain.any():
            each[certain].mean().backward()
            e = float(each[certain].detach().mean())
            average = e if average is None else 0.9 * average + 0.1 * e
        with torch.no_grad():
            for p, t in zip(parameters, own, strict=True):
                p.copy_(t)
        sgd.step()
        if average is not None and average < recovery:
            recoveries += 1
            with torch.no_grad():
                for p, t in zip(parameters, start, strict=True):
                    p.copy_(t)
            sgd, average = torch.optim.SGD(parameters, LR, momentum=MOMENTUM), None
    return found, recoveries


def confident():
    """A method some of whose predictions are certain, some not, for every class."""
    method = trained()
    logits = own_statistics(method, [plate(9, N=50)])[0]
    with torch.no_grad():
        method.head.weight.mul_(2 / logits.std(0)[:, None])
        method.head.bias.copy_(2 * (method.head.bias - logits.mean(0)) / logits.std(0))
    return method


PASSES = [plate(seed, N=9 + seed) for seed in range(6)]


@pytest.fixture
def fast(monkeypatch):
    """Steps large enough to be seen in logits."""
    for where in ("abra_wilds.tta.literature.affine.LR", f"{__name__}.LR"):
        monkeypatch.setattr(where, 0.05)


@pytest.mark.parametrize("steps", [1, 3])
def test_tent_is_sgd_on_the_mean_entropy_in_training_mode(fast, steps):
    method = confident()
    wanted, _ = slow_tent(method, PASSES, steps)
    found = tent(method, PASSES, steps=steps)
    assert max(worst(a, b) for a, b in zip(found, wanted, strict=True)) < 1e-9
    plain = own_statistics(method, PASSES)
    away = [worst(a, b) for a, b in zip(found, plain, strict=True)]
    assert (away[0] < 1e-9) == (steps == 1), "the first pass is predicted before it is learned from"
    assert min(away[1:]) > 1e-3


def test_tent_lowers_the_entropy_of_what_it_sees_again(fast):
    method, x = confident(), plate(0, N=24)
    means = [float(entropies(z).mean()) for z in tent(method, [x] * 8)]
    assert means == sorted(means, reverse=True) and means[-1] < 0.9 * means[0]


@pytest.mark.parametrize("margin", [0.4, 0.8])
def test_sar_takes_the_gradient_of_certain_images_a_distance_rho_away(fast, monkeypatch, margin):
    monkeypatch.setattr(sar_module, "MARGIN", margin)
    monkeypatch.setattr(sar_module, "RECOVERY", 0.0)
    method = confident()
    wanted, _ = slow_sar(method, PASSES, margin, recovery=0.0)
    found = sar(method, PASSES)
    assert max(worst(a, b) for a, b in zip(found, wanted, strict=True)) < 1e-9
    certain = entropies(torch.cat(found)) < margin * math.log(5)
    assert 0 < int(certain.sum()) < len(certain), "the filter has something to do"
    assert worst(found[-1], tent(method, PASSES)[-1]) > 1e-3


def test_sar_goes_back_to_the_trained_parameters_before_it_collapses(fast, monkeypatch):
    method, limit = confident(), 0.3
    monkeypatch.setattr(sar_module, "RECOVERY", limit)
    wanted, recoveries = slow_sar(method, PASSES * 2, recovery=limit)
    found = sar(method, PASSES * 2)
    assert max(worst(a, b) for a, b in zip(found, wanted, strict=True)) < 1e-9
    assert 0 < recoveries < len(PASSES)
    assert worst(found[-1], slow_sar(method, PASSES * 2, recovery=0.0)[0][-1]) > 1e-4


def test_without_a_certain_image_sar_stays_where_it_is(fast, monkeypatch):
    monkeypatch.setattr(sar_module, "MARGIN", 0.0)
    method = confident()
    for a, b in zip(sar(method, PASSES), own_statistics(method, PASSES), strict=True):
        assert worst(a, b) < 1e-9


@pytest.mark.parametrize("adapter", [tent, sar])
def test_every_bio_batch_starts_from_the_trained_model_whatever_the_gradient_mode(fast, adapter):
    method = confident()
    first = adapter(method, PASSES)
    with torch.no_grad():
        again = adapter(method, PASSES)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("adapter", [tent, sar])
def test_a_failure_inside_leaves_nothing(adapter):
    method = confident()
    before, own = copy.deepcopy(method.state_dict()), list(method.parameters())

    def passes():
        yield plate(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapter(method, passes())
    assert runs.differences(dict(before), dict(method.state_dict())) == []
    assert all(a is b and a.requires_grad for a, b in zip(method.parameters(), own, strict=True))


def test_one_image_on_one_pixel_is_a_sentence():
    with pytest.raises(InputError, match="--tta_min"):
        tent(trained(), [torch.zeros(1, 3, 1, 1, dtype=torch.float64)])


def test_gradients_reach_affine_parameters_through_the_statistics():
    """A scale of the first norm's output is undone by the next norm, but for eps."""
    method = trained()
    with affine_copies(method) as parameters:
        first = parameters[0]
        g = gradients(entropies(method.predict(plate(0))).sum(), parameters)
        assert [p.requires_grad for p in method.net.parameters()].count(True) == len(parameters) == 10
        for i in range(3):
            moved = []
            for h in (1e-5, -1e-5):
                with torch.no_grad():
                    first[i] += h
                    moved.append(float(entropies(method.predict(plate(0))).sum()))
                    first[i] -= h
            assert float(g[0][i]) == pytest.approx((moved[0] - moved[1]) / 2e-5, abs=1e-5)
