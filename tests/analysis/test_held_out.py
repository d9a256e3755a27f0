"""Held-out controls say whether an alignment makes experiments more alike; unshrunk ones on noise do not."""

import numpy as np
import pytest

from abra_wilds.analysis import held_out as module
from abra_wilds.analysis.held_out import HeldOut, check_held_out, held_out, quarters
from abra_wilds.analysis.metrics.mixing import batch_accuracy
from abra_wilds.analysis.metrics.wells import Wells
from abra_wilds.analysis.postprocess import POSTPROCESS
from abra_wilds.errors import InputError


def unshrunk(features, batch, is_control):
    """Mean and deviation of few controls, taken at their word."""
    out = np.empty_like(features)
    for name in np.unique(batch):
        own = features[(batch == name) & is_control]
        out[batch == name] = (features[batch == name] - own.mean(0)) / own.std(0)
    return out


def screen(E, n, D, effect=0.0, seed=0):
    """(features, batch, is_control, labels): E experiments of n controls and 120 treated sites."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(E), n + 120)
    f = rng.normal(size=(len(code), D)) + effect * rng.normal(size=(E, D))[code]
    f *= np.exp(effect * rng.normal(size=E))[code, None]
    batch = np.array([f"E{e}" for e in code], dtype=object)
    return f, batch, np.tile(np.arange(n + 120) < n, E), np.tile(np.arange(n + 120) % 30, E)


def named(f, batch, label):
    """Accuracy and chance of the classifier of experiments."""
    found = batch_accuracy(f, Wells(batch, label, batch, batch, np.zeros(len(f), dtype=bool)))
    return found.value, found.chance


@pytest.mark.parametrize("name", ["centerscale", "tvn"])
@pytest.mark.parametrize(("E", "n"), [(2, 8), (4, 8), (2, 60)])
def test_alignment_of_pure_noise_leaves_a_classifier_at_chance(name, E, n):
    f, batch, is_control, label = screen(E, n, 256)
    x = POSTPROCESS[name](f, batch, is_control)[~is_control]
    accuracy, chance = named(x, batch[~is_control], label[~is_control])
    wells = 120 * E
    assert accuracy < chance + 4 * (chance * (1 - chance) / wells) ** 0.5
    check_held_out(name, f, batch, is_control, np.arange(len(f)))


@pytest.mark.parametrize("name", ["centerscale", "tvn"])
def test_with_controls_enough_a_real_effect_goes_and_the_check_says_so(name):
    f, batch, is_control, label = screen(3, 120, 64, effect=0.4)
    treated = batch[~is_control], label[~is_control]
    before = named(f[~is_control], *treated)[0]
    after = named(POSTPROCESS[name](f, batch, is_control)[~is_control], *treated)[0]
    assert before > 0.9 and after < 0.6
    found = check_held_out(name, f, batch, is_control, np.arange(len(f)))
    assert found.before > 0.9 and found.after < found.before - 0.2
    assert found.chance == pytest.approx(1 / 3)


def test_an_alignment_that_makes_experiments_of_noise_is_refused_with_the_numbers(monkeypatch):
    monkeypatch.setitem(POSTPROCESS, "centerscale", unshrunk)
    f, batch, is_control, label = screen(2, 8, 512)
    treated = batch[~is_control], label[~is_control]
    assert named(unshrunk(f, batch, is_control)[~is_control], *treated)[0] > 0.95
    with pytest.raises(InputError, match=r"centerscale makes .* before and (9\d|100) % after .*chance: 50 %"):
        check_held_out("centerscale", f, batch, is_control, np.arange(len(f)))


def test_no_well_is_both_fitted_or_learned_and_asked():
    """Each well's sites are equal, and wells are noise: a classifier that saw a site would know the other."""
    rng = np.random.default_rng(3)
    f = np.repeat(rng.normal(size=(80, 200)), 2, axis=0)
    batch = np.repeat(rng.permutation(np.repeat(np.array(["A", "B"], dtype=object), 40)), 2)
    found = held_out("none", f, batch, np.ones(160, dtype=bool), np.repeat(np.arange(80), 2))
    assert abs(found.before - 0.5) < 0.2 and found.before == found.after


def test_one_experiment_has_nothing_to_be_told_from():
    f, batch, is_control, _ = screen(1, 8, 5)
    found = check_held_out("tvn", f, batch, is_control, np.arange(len(f)))
    assert found.before == found.after == 1


@pytest.mark.parametrize(("E", "n", "most"), [(2, 8, 0.25), (2, 32, 0.125), (4, 300, 0.05)])
def test_what_is_refused_is_a_gain_of_two_standard_errors_and_five_points(monkeypatch, E, n, most):
    """Closed form: a share of N wells at chance 1 / E has the standard error sqrt((1 - 1 / E) / (E N))."""
    assert most == pytest.approx(max(0.05, 2 * ((1 - 1 / E) / (E * E * n)) ** 0.5))
    for gain, refused in ((most + 1e-6, True), (most - 1e-6, False)):
        found = HeldOut(0.4, 0.4 + gain, 1 / E, E * n)
        monkeypatch.setattr(module, "held_out", lambda *_, found=found: found)
        if refused:
            with pytest.raises(InputError, match="40 % of images"):
                check_held_out("tvn", *[np.zeros(0)] * 4)
        else:
            assert check_held_out("tvn", *[np.zeros(0)] * 4) is found


def test_quarters_are_even_inside_each_experiment():
    experiment = np.random.default_rng(1).permutation(np.repeat(np.array(["A", "B", "C"], dtype=object), 10))
    part = quarters(experiment, np.random.default_rng(0))
    for name in "ABC":
        counts = np.bincount(part[experiment == name], minlength=4)
        assert sorted(counts) == [2, 2, 3, 3]
