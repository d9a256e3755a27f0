"""Shortcuts: simple models against counts and densities by hand, permutations, verdicts of made screens."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from abra_wilds.analysis.audit import shortcuts
from abra_wilds.analysis.audit.shortcuts import BACKGROUND, PLAIN, SHORTCUTS, AuditWells, audited

O = 8


def screen(n_experiments, seed, first=0, confounded=False):
    """Experiments of two plates of four classes with six wells each; nothing says anything of classes.

    Unless confounded, each experiment draws again which classes are on which plate.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for e in range(first, first + n_experiments):
        order = np.arange(O) if confounded else rng.permutation(O)
        for plate, labels in enumerate(order.reshape(2, 4)):
            for place, label in enumerate(rng.permutation(np.repeat(labels, 6))):
                rows.append((label, f"E{e}", str(plate), f"{'ABCD'[place // 6]}{place % 6 + 1:02}"))
    label, *names = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    statistics = np.random.default_rng([seed, 1]).normal(size=(len(rows), 9))
    return AuditWells(label.astype(np.int64), *names, statistics)


def blind(wells, seed=0):
    """Probabilities that know nothing."""
    return np.random.default_rng(seed).dirichlet(np.ones(O), len(wells.label))


def verdicts_of(train, test, background=None, **more):
    shown = {PLAIN: blind(test, 1), BACKGROUND: blind(test, 2) if background is None else background}
    return {v.shortcut: v for v in audited(train, test, shown, **more)}


def by_class(wells, effect=1.5):
    """A number of each class, for each well."""
    return effect * np.linspace(-1, 1, O)[np.random.default_rng(5).permutation(O)][wells.label]


def with_statistic(wells, columns):
    statistics = wells.statistics.copy()
    statistics[:, columns] += by_class(wells)[:, None]
    return replace(wells, statistics=statistics)


def planted(name, wells):
    if name == "position":
        order = np.argsort(wells.label, kind="stable")
        position = wells.position.copy()
        for plate in np.unique(wells.group):
            own = order[wells.group[order] == plate]
            position[own] = sorted(wells.position[own])
        return replace(wells, position=position)
    return with_statistic(wells, [1, 4] if name == "intensity" else [8])


@pytest.mark.parametrize("name", ["position", "intensity", "density", "plate"])
def test_what_is_planted_is_found_and_nothing_else(name):
    train, test = (screen(n, seed, first, name == "plate") for n, seed, first in ((8, 0, 0), (9, 1, 8)))
    if name != "plate":
        train, test = planted(name, train), planted(name, test)
    found = verdicts_of(train, test, channel=2)
    assert {key: v.found for key, v in found.items()} == {key: key == name for key in SHORTCUTS}
    assert found[name].accuracy > found[name].chance
    assert str(found[name]).startswith(f"{name}: found.") and "points" in str(found[name])
    assert ("by themselves" in str(found[name])) == (name in shortcuts.BIOLOGY)


def test_a_foreground_that_no_image_has_says_nothing():
    train, test = (
        replace(w, statistics=np.zeros_like(w.statistics)) for w in (screen(6, 0), screen(3, 1, 6))
    )
    assert (shortcuts.guesses(train, test, O, 0)["density"] == 1 / O).all()
    assert verdicts_of(train, test)["density"].p == 1


def test_another_channel_is_no_density():
    train, test = (planted("density", screen(n, seed, first)) for n, seed, first in ((8, 0, 0), (5, 1, 8)))
    assert not verdicts_of(train, test, channel=0)["density"].found


def test_a_model_that_knows_classes_from_the_background_is_found():
    train, test = screen(8, 0), screen(5, 1, 8)
    knows = 0.9 * blind(test, 3)
    knows[np.arange(len(test.label)), test.label] += 0.1
    assert verdicts_of(train, test, knows)["background"].found


def test_what_names_no_more_wells_than_chance_is_not_found_however_sure_the_test():
    train, test = screen(8, 0), screen(5, 1, 8)
    wells, wrong = np.arange(len(test.label)), (test.label + 1) % O
    leans = np.full((len(wells), O), 0.01)
    leans[wells, test.label], leans[wells, wrong] = 0.4, 0.5
    verdict = verdicts_of(train, test, leans)["background"]
    assert verdict.adjusted < shortcuts.LEVEL and verdict.accuracy == 0 and not verdict.found


def test_false_alarms_of_nothing_are_at_most_the_level(monkeypatch):
    """Of 60 screens, at 5 % a screen: 3 are expected, and 8 or more come in 1 of 100 times."""
    monkeypatch.setattr(shortcuts, "PERMUTATIONS", 199)
    alarms = [
        any(v.found for v in verdicts_of(screen(4, 2 * k), screen(3, 2 * k + 1, 4)).values())
        for k in range(60)
    ]
    assert sum(alarms) <= 7


def test_the_model_is_compared_with_the_shortcut_by_mcnemars_test():
    a = np.array([True] * 30 + [False] * 12 + [True] * 8)
    b = np.array([True] * 25 + [False] * 5 + [True] * 10 + [False] * 10)
    wins, losses = (a & ~b).sum(), (~a & b).sum()
    assert shortcuts.paired(a, b) == pytest.approx(
        (a.mean() - b.mean(), binomtest(wins, wins + losses).pvalue)
    )
    assert shortcuts.paired(a, a) == (0.0, 1.0)


def test_categories_alone_are_counted_with_one_more_of_each():
    label = np.array([0, 0, 0, 2])
    own, new = np.array(list("aabb"), dtype=object), np.array(list("abz"), dtype=object)
    found = shortcuts.by_names(label, [own], [new], 3)
    # Counts of a, b and what training does not have, plus one of each.
    like = {0: np.array([3, 2, 1]) / 6, 2: np.array([1, 2, 1]) / 4}
    joint = np.stack([0.75 * like[0], np.zeros(3), 0.25 * like[2]], axis=1)
    np.testing.assert_allclose(found, joint / joint.sum(1, keepdims=True))


def test_intensity_is_read_as_it_is_and_against_the_plate_by_normal_densities():
    train, test = with_statistic(screen(6, 0), [0]), with_statistic(screen(3, 1, 6), [0])
    found = shortcuts.guesses(train, test, O, 0)["intensity"]

    def features(w):
        f = np.empty((len(w.label), 6, 2))
        for i in range(len(w.label)):
            own = w.statistics[w.group == w.group[i], :6]
            f[i] = np.stack([w.statistics[i, :6], (w.statistics[i, :6] - own.mean(0)) / own.std(0)], axis=1)
        return f.reshape(len(f), 12)

    own, new = features(train), features(test)
    smoothing = 1e-9 * own.var(0).max()
    logs = [
        norm.logpdf(
            new, own[train.label == c].mean(0), (own[train.label == c].var(0) + smoothing) ** 0.5
        ).sum(1)
        for c in range(O)
    ]
    expected = np.exp(np.stack(logs, 1) - np.max(logs, axis=0)[:, None])
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-8)


def test_plates_are_permuted_inside_experiments_and_classes_inside_plates():
    """With one plate an experiment, neither a plate nor a well of another class can take its place."""
    test = screen(3, 1)
    one_plate = replace(test, experiment=np.array([f"P{g}" for g in test.group], dtype=object))
    plate = np.eye(O)[one_plate.group % O]
    assert shortcuts.permuted(plate, one_plate, True, np.random.default_rng(0))[0] == 1.0
    one_class = replace(test, label=test.group % O)
    p, chance = shortcuts.permuted(np.eye(O)[one_class.label], one_class, False, np.random.default_rng(0))
    assert (p, chance) == (1.0, 1.0)
