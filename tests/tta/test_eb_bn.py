"""Class-aware batch norm on a whole small method: end points, formulas by hand, a method left as found."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.config.precision import SpeedConfig
from abra_wilds.data.datasets.catalogue import split_subset
from abra_wilds.engine.precision import configure_precision
from abra_wilds.errors import InputError
from abra_wilds.functional.effects import Effects
from abra_wilds.functional.stats import instance_moments
from abra_wilds.tta.adapters import running_statistics
from abra_wilds.tta.bn_state import moments
from abra_wilds.tta.components import Components
from abra_wilds.tta.eb_bn import (
    CAUTION,
    LEAST_VARIANCE,
    adapted,
    class_aware_statistics,
    mix_of,
    share_of_bio_batch,
    standardised_moments,
    support_of,
    unadapted,
)
from abra_wilds.tta.mix import Reliability, no_labels
from abra_wilds.tta.plan import split_plan, tally
from tests import runs
from tests.helpers import worst
from tests.tta.made import components, effects
from tests.tta.reference import norms_of
from tests.tta.test_adapters import plate, trained

N, O, C = 12, 5, 3


def logits(method, parts, passes, known=(), **more):
    return torch.cat(class_aware_statistics(method, passes, known, components=parts, **more))


# formulas


def mixed(seed=0):
    """Class frequencies that differ from training's, and training's."""
    rng = torch.Generator().manual_seed(seed)
    mix, pi = torch.rand(2, O, generator=rng, dtype=torch.float64)
    return mix / mix.sum(), pi / pi.sum()


def test_statistics_are_those_of_a_loop_over_images_channels_and_classes():
    m, v = torch.randn(N, C).double(), torch.rand(N, C).double()
    means, variances, (mix, pi) = effects(C), effects(C, seed=9), mixed()
    mu, var = standardised_moments(m, v, means, variances, mix, pi)
    a, a_v = means.scores @ means.loadings, variances.scores @ variances.loadings
    for c in range(C):
        at = sum(m[i, c] for i in range(N)) / N
        between = sum((m[i, c] - at) ** 2 for i in range(N)) / N
        spread = [
            sum(p[k] * a[k, c] ** 2 for k in range(O)) - sum(p[k] * a[k, c] for k in range(O)) ** 2
            for p in (mix, pi)
        ]
        moved = [sum((mix[k] - pi[k]) * each[k, c] for k in range(O)) for each in (a, a_v)]
        assert mu[c] == pytest.approx(float(at - moved[0]))
        within = sum(v[i, c] for i in range(N)) / N
        assert var[c] == pytest.approx(float(within + between - moved[1] - (spread[0] - spread[1])))


def test_images_that_differ_by_class_alone_get_the_statistics_of_the_training_mix():
    means, variances = effects(C), effects(C, seed=9)
    a, a_v = means.scores @ means.loadings, variances.scores @ variances.loadings
    y, pi = torch.tensor([0] * 7 + [1] * 2 + [4] * 11), torch.tensor([0.2, 0.2, 0.3, 0.2, 0.1]).double()
    mix = torch.bincount(y, minlength=O).double() / len(y)
    mu, var = standardised_moments(2 + a[y], 3 + a_v[y], means, variances, mix, pi)
    torch.testing.assert_close(mu, 2 + pi @ a)
    torch.testing.assert_close(var, 3 + pi @ a_v + pi @ (a - pi @ a) ** 2)


def test_with_the_training_mix_statistics_are_those_of_plate_bn():
    x, (_, pi) = plate(0), mixed()
    mu, var = standardised_moments(*instance_moments(x), effects(C), effects(C), pi, pi)
    assert torch.equal(torch.stack([mu, var]), torch.stack(moments(x)))


@pytest.mark.parametrize("n", [2, 30])
def test_the_share_of_a_bio_batch_is_its_part_of_the_variance(n):
    e, (_, pi) = effects(C), mixed()
    a = e.scores @ e.loadings
    for doubt, prior in ((0.0, 1.0), (0.3, 1.0), (0.3, 20.0), (0.3, 0.0), (0.3, math.inf)):
        other = e.within / (n - 1) + doubt * (pi @ (a - pi @ a) ** 2)
        wanted = e.between / (e.between + prior * other)
        torch.testing.assert_close(share_of_bio_batch(e, pi, n, doubt, prior), wanted)


def test_a_channel_in_which_nothing_varies_keeps_its_statistics_and_a_share_is_never_nan():
    zero, pi = torch.zeros(C).double(), mixed()[1]
    still = Effects(torch.zeros(O, 1).double(), torch.zeros(1, C).double(), zero, zero)
    assert share_of_bio_batch(still, pi, 5, 0.1).tolist() == [0, 0, 0]
    certain = replace(still, between=zero + 1)
    assert share_of_bio_batch(certain, pi, 5, 0.1).tolist() == [1, 1, 1]
    assert share_of_bio_batch(certain, pi, 5, 0.1, math.inf).tolist() == [0, 0, 0]


def by_hand(method, x, parts, doubt):
    """Features where each norm is set to lerp(running, plate's statistics, w), layer after layer."""
    n, names = len(x), iter(parts.means)
    for stage in method.net.stages.values():
        conv, norm, relu = stage
        x, name = conv(x), next(names)
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        w = [share(parts, each[name], n, doubt) for each in (parts.means, parts.variances)]
        mean = (1 - w[0]) * norm.running_mean + w[0] * mean
        var = (1 - w[1]) * norm.running_var + w[1] * torch.maximum(var, LEAST_VARIANCE * norm.running_var)
        x = F.batch_norm(x, mean, var, norm.weight, norm.bias, training=False, eps=norm.eps)
        x = relu(x)
    return x.mean((2, 3))


def share(parts, e, n, doubt):
    a = e.scores @ e.loadings
    spread = parts.pi @ a**2 - (parts.pi @ a) ** 2
    return e.between / (e.between + e.within / (n - 1) + doubt * spread)


@torch.no_grad()
def test_without_class_effects_it_is_plate_bn_shrunken_to_the_running_statistics():
    """Nor where there is one class; features go 1 / (1 + CAUTION V) of the way, V = 1 / n."""
    method, x = trained(), plate(0)
    parts = components(method, classes=0.0, usual=0.0)
    wanted = torch.lerp(method.features(x), by_hand(method, x, parts, 0.0), 1 / (1 + CAUTION / N))
    assert worst(logits(method, parts, [x]), method.classify(wanted)) < 1e-10


@torch.no_grad()
def test_where_posteriors_are_those_of_the_training_mix_for_all_images_it_is_shrunken_plate_bn():
    method, x = trained(), plate(0)
    parts = components(method)
    method.head.weight.zero_()
    method.head.bias.copy_(parts.pi.log())
    parts, known = replace(parts, diversity=Reliability(1.0, 9.0, 0.0)), no_labels(x)
    (f,), seen = unadapted(method, [x], known, parts)
    mix = mix_of(method.classify(f).softmax(1), known, seen, parts, parts.unadapted)
    V, error = 0.05 + 1 / N, 0.02 + 0.3 / N
    doubt = V * 10 * error / (0.8**2 * V + 10 * error)
    torch.testing.assert_close(mix.frequencies, parts.pi, rtol=0, atol=1e-9)
    assert mix.doubt == pytest.approx(doubt)
    assert worst(adapted(method, [x], mix, parts)[0], by_hand(method, x, parts, doubt)) < 1e-7


# the whole adapter


@pytest.mark.parametrize(("dtype", "amp"), [("float32", "none"), ("float64", "none"), ("float32", "bf16")])
def test_an_infinite_prior_is_no_adaptation_bit_for_bit(dtype, amp):
    method, x = trained().to(getattr(torch, dtype)), plate(0).to(getattr(torch, dtype)).split([5, 4, 3])
    configure_precision(method, SpeedConfig(amp=amp))
    still = {k: replace(e, within=0 * e.within) for k, e in components(method).means.items()}
    for parts in (components(method), components(method, classes=0.0, means=still)):
        wanted = torch.cat(running_statistics(method, x))
        assert torch.equal(logits(method, parts, x, prior=math.inf), wanted)
        assert not torch.equal(logits(method, parts, x), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_image_alone_is_predicted_as_without_adaptation(dtype):
    method, x = trained().to(dtype), plate(0, N=1).to(dtype)
    assert torch.equal(logits(method, components(method), [x]), running_statistics(method, [x])[0])


@pytest.mark.parametrize("name", ["ERM", "ABRA"])
def test_the_method_is_left_bit_for_bit_and_in_evaluation_mode(name):
    method = trained(name)
    before, modes = copy.deepcopy(method.state_dict()), []
    buffers = [(m.running_mean, m.running_var) for m in norms_of(method)]
    handle = method.net.register_forward_hook(
        lambda *_: modes.append(any(m.training for m in method.modules()))
    )
    found = logits(method, components(method), plate(0).split([7, 5]))
    handle.remove()
    assert found.shape == (N, O) and not found.requires_grad
    assert modes == [False] * 6
    assert runs.differences(dict(before), dict(method.state_dict())) == []
    now = [(m.running_mean, m.running_var) for m in norms_of(method)]
    assert all(a is b for old, new in zip(buffers, now, strict=True) for a, b in zip(old, new, strict=True))
    assert not any(m._forward_pre_hooks for m in method.modules())


@pytest.mark.parametrize("sizes", [[N], [5, 4, 3], [1, 11]])
def test_every_image_goes_through_the_network_three_times(sizes):
    method, seen = trained(), []
    method.net.register_forward_hook(lambda _m, args, _out: seen.append(len(args[0])))
    logits(method, components(method), plate(0).split(sizes))
    assert sum(seen) == 3 * N and len(seen) == 3 * len(sizes)


def test_neither_order_nor_cuts_of_the_images_change_a_logit():
    method, x = trained(), plate(0, scale=2.0)
    parts = components(method)
    wanted = logits(method, parts, [x])
    assert worst(wanted, running_statistics(method, [x])[0]) > 0.1
    for seed, sizes in enumerate([[N], [6, 6], [1, 11], [5, 4, 3]]):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
        assert worst(logits(method, parts, x[order].split(sizes)), wanted[order]) < 1e-10


def test_known_classes_are_followed_to_their_images_however_they_are_cut():
    method, x = trained(), plate(0)
    parts, known = components(method), no_labels(plate(0))
    plain = logits(method, parts, [x], [known])
    assert torch.equal(plain, logits(method, parts, [x]))
    known[[2, 5, 9]] = torch.tensor([0, 0, 3])
    given = logits(method, parts, [x], [known])
    assert worst(given, plain) > 1e-4
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    cut = x[order].split([5, 7]), known[order].split([5, 7])
    assert worst(logits(method, parts, *cut), given[order]) < 1e-10
    known[[2, 5, 9]] = torch.tensor([3, 0, 0])
    assert worst(logits(method, parts, [x], [known]), given) < 1e-10, "their mix alone enters"


def test_support_is_the_slope_of_shifts_on_what_a_mix_would_cause_from_a_half_on():
    method = trained()
    parts, (mix, _) = components(method), mixed()
    deviation = mix - parts.pi

    def support(slope, extra=0.0):
        shifts = {name: slope * e.of_mix(deviation) + extra for name, e in parts.means.items()}
        return support_of(deviation, shifts, 20, parts)

    for slope, wanted in ((1.0, 1.0), (0.75, 0.5), (0.5, 0.0), (0.0, 0.0), (-1.0, 0.0), (3.0, 1.0)):
        assert support(slope) == pytest.approx(wanted, abs=1e-9)
    same = support_of(0 * deviation, dict.fromkeys(parts.means, torch.ones(1).double()), 20, parts)
    assert same == 0, "a mix that does not deviate is borne out by nothing"


def test_the_half_of_the_norms_that_classes_move_least_is_asked():
    method = trained()
    names = list(components(method).means)
    sizes = dict(zip(names, (5.0, 0.1, 4.0, 0.2, 0.3), strict=True))
    means = {
        name: replace(e, scores=sizes[name] * e.scores, between=torch.ones_like(e.between))
        for name, e in components(method, classes=1.0).means.items()
    }
    parts, deviation = components(method, means=means), mixed()[0] - components(method).pi
    shifts = {name: e.of_mix(deviation) for name, e in means.items()}
    asked = []
    for name in names:
        changed = support_of(deviation, {**shifts, name: -9 * shifts[name]}, 20, parts)
        asked += [name] if changed < 0.99 else []
    assert asked == [names[1], names[3], names[4]]


def test_parts_of_eb_bn_have_their_statistics_together(dataset):
    e = EvalConfig(tta="eb_bn", tta_min=2, tta_batch_size=6)
    plan = split_plan(split_subset(dataset, "val"), e, 8)
    assert [[len(rows) for rows in group.passes] for group in plan] == [[6, 5, 5]] * 4
    assert "12 passes; statistics of 16 to 16 images; 0 cut" in tally(plan, e).line("val", e)


# components


def test_components_come_back_from_a_file_that_runs_no_code(tmp_path):
    parts = components(trained())
    torch.save(parts.state(), tmp_path / "c.pth")
    found = Components.from_state(torch.load(tmp_path / "c.pth", weights_only=True))
    assert runs.differences(parts.state(), found.state()) == [] and isinstance(found.means, dict)
    assert isinstance(next(iter(found.means.values())), Effects) and found.adapted == parts.adapted
    assert found.to("meta").pi.device.type == found.to("meta").means["net.stages.stem.1"].within.device.type
    assert found.to("mps").pi.device.type == "cpu", "which has no double precision"
    assert "5 batch norms" in found.line() and "0.80" in found.line() and "0.90" in found.line()


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("pi"),
        lambda state: state.update(more=1),
        lambda state: state.update(means=3),
        lambda state: state["unadapted"].pop("bias"),
        lambda state: next(iter(state["variances"].values())).update(more=1),
    ],
)
def test_components_of_another_form_are_a_sentence(change):
    state = components(trained()).state()
    change(state)
    with pytest.raises(InputError, match="fit them again"):
        Components.from_state(state)
