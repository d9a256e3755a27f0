"""Metrics against loops over pairs of wells, closed forms, and embeddings made to be mixed or apart."""

import numpy as np
import pytest

from abra_wilds.analysis.metrics import mixing
from tests.analysis.made_wells import RNG, embedded, measured_on, parts, wells


def slow_silhouette(f, names):
    found = []
    for i in range(len(f)):
        d = [np.linalg.norm(f[i] - f[j]) for j in range(len(f))]
        near = {c: [d[j] for j in range(len(f)) if j != i and names[j] == c] for c in set(names)}
        own = near.pop(names[i])
        a, b = np.mean(own), min(np.mean(v) for v in near.values())
        found.append((b - a) / max(a, b))
    return np.mean(found)


def test_silhouettes_are_those_of_experiments_and_of_classes():
    table = wells()
    f, (batch, label) = embedded(table, 1, 1).astype(np.float64), parts(table)
    own = measured_on(table)
    assert mixing.silhouette_batch(f, own).value == pytest.approx(slow_silhouette(f, batch))
    assert mixing.silhouette_label(f, own).value == pytest.approx(slow_silhouette(f, label))


def slow_shuffle(names, within, rng):
    """Names drawn one by one from those of the same group."""
    pools = {w: list(names[within == w]) for w in set(within)}
    return np.array([pools[w].pop(rng.integers(len(pools[w]))) for w in within])


@pytest.mark.parametrize("of", ["label", "batch"])
def test_chance_of_a_silhouette_is_that_of_names_shuffled_inside_the_other_groups(of):
    table = wells(n_batches=3, n_labels=8, repeats=1)
    f, (batch, label) = embedded(table, 1, 1), parts(table)
    names, within = (label, batch) if of == "label" else (batch, label)
    rng = RNG(1)
    expected = [slow_silhouette(f, slow_shuffle(names, within, rng)) for _ in range(40)]
    measure, own = getattr(mixing, f"silhouette_{of}"), measured_on(table)
    chance = measure(f, own).chance
    assert abs(chance - np.mean(expected)) < 3 * np.std(expected) / 5**0.5
    assert measure(f, own).chance == chance, "by a fixed seed"


def test_classes_without_an_effect_have_the_silhouette_of_chance_which_lies_far_below_0():
    table = wells(n_batches=4, n_labels=60, repeats=1)
    found = mixing.silhouette_label(embedded(table, 3, 0), measured_on(table))
    assert found.chance < -0.2 and abs(found.value - found.chance) < 0.02


def test_shuffled_names_stay_inside_their_groups():
    names, within = RNG(0).integers(5, size=60), RNG(1).integers(4, size=60)
    found = mixing.shuffled(names, within, RNG(2))
    assert (found != names).any()
    for w in range(4):
        assert sorted(found[within == w]) == sorted(names[within == w])


def test_purity_counts_neighbours_of_the_same_experiment_and_never_the_well_itself():
    table = wells()
    f, (batch, _) = embedded(table, 1, 0), parts(table)
    same = []
    for i in range(len(f)):
        by_distance = sorted((np.linalg.norm(f[i] - f[j]), j) for j in range(len(f)) if j != i)
        same += [batch[j] == batch[i] for _, j in by_distance[: mixing.NEIGHBOURS]]
    found = mixing.knn_purity(f, measured_on(table))
    assert found.value == pytest.approx(np.mean(same))
    assert found.chance == pytest.approx(15 / 47), "16 wells an experiment"


def test_the_classifier_names_experiments_that_are_apart_and_no_others():
    table = wells(n_batches=4, n_labels=30)
    own = measured_on(table)
    assert mixing.batch_accuracy(embedded(table, 9, 1), own).value > 0.95
    found = mixing.batch_accuracy(embedded(table, 0, 1), own)
    assert found.chance == 0.25 and abs(found.value - found.chance) < 0.1


def test_the_classifier_has_not_seen_the_classes_of_the_wells_it_names():
    """Where each well of a class is one point, a classifier that had seen the class would know all."""
    table = wells(n_batches=2, n_labels=20, repeats=10)
    batch, label = parts(table)
    point = {key: RNG(i).normal(size=60) for i, key in enumerate(zip(batch, label, strict=True))}
    f = np.stack([point[key] for key in zip(batch, label, strict=True)])
    assert mixing.batch_accuracy(f, measured_on(table)).value < 0.75
