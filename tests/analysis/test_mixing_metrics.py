"""Metrics against loops over pairs of wells, closed forms, and embeddings made to be mixed or apart."""

import itertools

import numpy as np
import pandas as pd
import pytest

from abra_wilds.analysis import mixing_metrics as mm
from abra_wilds.errors import InputError

RNG = np.random.default_rng


def wells(n_batches=3, n_labels=8, repeats=2, line="HUVEC"):
    """A table of treatment wells: every experiment has every class."""
    product = itertools.product(range(n_batches), range(n_labels), range(repeats))
    rows = [(line, f"{line}-{b:02}", label, "trt") for b, label, _ in product]
    columns = ["Metadata_Cell_Line", "Metadata_Batch", "Metadata_sirna_id", "Metadata_control_type"]
    return pd.DataFrame(rows, columns=columns)


def parts(table):
    return table["Metadata_Batch"].to_numpy(dtype=object), table["Metadata_sirna_id"].to_numpy()


def embedded(table, of_batch, of_label, seed=0):
    """Features that are a place of the experiment, a place of the class, and noise."""
    rng = RNG(seed)
    batch, label = parts(table)
    places = {name: rng.normal(size=5) for name in [*np.unique(batch), *np.unique(label)]}
    noise = rng.normal(size=(len(table), 5))
    return np.stack(
        [of_batch * places[b] + of_label * places[y] + e for b, y, e in zip(batch, label, noise, strict=True)]
    ).astype(np.float32)


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
    assert mm.silhouette_batch(f, batch, label)[0] == pytest.approx(slow_silhouette(f, batch))
    assert mm.silhouette_label(f, batch, label)[0] == pytest.approx(slow_silhouette(f, label))


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
    measure = mm.silhouette_label if of == "label" else mm.silhouette_batch
    chance = measure(f, batch, label)[1]
    assert abs(chance - np.mean(expected)) < 3 * np.std(expected) / 5**0.5
    assert measure(f, batch, label)[1] == chance, "by a fixed seed"


def test_classes_without_an_effect_have_the_silhouette_of_chance_which_lies_far_below_0():
    table = wells(n_batches=4, n_labels=60, repeats=1)
    batch, label = parts(table)
    value, chance = mm.silhouette_label(embedded(table, 3, 0), batch, label)
    assert chance < -0.2 and abs(value - chance) < 0.02


def test_shuffled_names_stay_inside_their_groups():
    names, within = RNG(0).integers(5, size=60), RNG(1).integers(4, size=60)
    found = mm.shuffled(names, within, RNG(2))
    assert (found != names).any()
    for w in range(4):
        assert sorted(found[within == w]) == sorted(names[within == w])


def test_purity_counts_neighbours_of_the_same_experiment_and_never_the_well_itself():
    table = wells()
    f, (batch, label) = embedded(table, 1, 0), parts(table)
    same = []
    for i in range(len(f)):
        by_distance = sorted((np.linalg.norm(f[i] - f[j]), j) for j in range(len(f)) if j != i)
        same += [batch[j] == batch[i] for _, j in by_distance[: mm.NEIGHBOURS]]
    purity, chance = mm.knn_purity(f, batch, label)
    assert purity == pytest.approx(np.mean(same))
    assert chance == pytest.approx(15 / 47), "16 wells an experiment"


def test_the_classifier_names_experiments_that_are_apart_and_no_others():
    table = wells(n_batches=4, n_labels=30)
    batch, label = parts(table)
    assert mm.batch_accuracy(embedded(table, 9, 1), batch, label)[0] > 0.95
    accuracy, chance = mm.batch_accuracy(embedded(table, 0, 1), batch, label)
    assert chance == 0.25 and abs(accuracy - chance) < 0.1


def test_the_classifier_has_not_seen_the_classes_of_the_wells_it_names():
    """Where each well of a class is one point, a classifier that had seen the class would know all."""
    table = wells(n_batches=2, n_labels=20, repeats=10)
    batch, label = parts(table)
    point = {key: RNG(i).normal(size=60) for i, key in enumerate(zip(batch, label, strict=True))}
    f = np.stack([point[key] for key in zip(batch, label, strict=True)])
    assert mm.batch_accuracy(f, batch, label)[0] < 0.75


@pytest.mark.parametrize(("P", "L"), [(1, 2), (2, 5), (3, 6)])
def test_chance_of_retrieval_is_the_mean_over_all_orders(P, L):
    found = []
    for places in itertools.combinations(range(L), P):
        found.append(np.mean([(k + 1) / (place + 1) for k, place in enumerate(places)]))
    assert mm.random_precision(P, L) == pytest.approx(np.mean(found))


def slow_map(f, batch, label):
    """(mean average precision, chance) over classes, by sorting cosines."""
    unit = f / np.linalg.norm(f, axis=1, keepdims=True)
    by_class = {}
    for i in range(len(f)):
        ranked = [
            (-float(unit[i] @ unit[j]), label[j] == label[i])
            for j in range(len(f))
            if label[j] != label[i] or batch[j] != batch[i]
        ]
        hits = [hit for _, hit in sorted(ranked)]
        precisions = [sum(hits[: k + 1]) / (k + 1) for k, hit in enumerate(hits) if hit]
        chance = mm.random_precision(sum(hits), len(hits))
        by_class.setdefault(label[i], []).append((np.mean(precisions), chance))
    return np.mean([np.mean(rows, axis=0) for rows in by_class.values()], axis=0)


def test_retrieval_finds_classes_in_other_experiments_as_sorting_by_cosine_does():
    pytest.importorskip("copairs", reason="the extra hcs is not installed")
    table = wells(repeats=2).iloc[:-3]
    f, (batch, label) = embedded(table, 1, 1), parts(table)
    assert mm.retrieval_map(f, batch, label) == pytest.approx(tuple(slow_map(f, batch, label)), abs=1e-6)
    strong = embedded(table, 0, 30)
    assert mm.retrieval_map(strong, batch, label)[0] > 0.9


def test_every_metric_tells_mixed_embeddings_from_those_apart():
    table = wells(n_batches=3, n_labels=20)
    versions = {"apart": embedded(table, 5, 0.5), "mixed": embedded(table, 0, 3)}
    entries = mm.mixing_metrics(versions, table)
    assert [e["metric"] for e in entries][:4] == list(mm.METRICS)[:4]
    for e in entries:
        sign = 1 if e["better"] == "higher" else -1
        assert sign * (e["mixed"] - e["apart"]) > 0.1, e
        assert (e["chance"]["mixed"] != e["chance"]["apart"]) == ("silhouette" in e["metric"])


def test_lines_are_measured_apart_on_shared_treatments_and_averaged_by_wells():
    table = pd.concat([wells(2, 6), wells(3, 8, 1, "RPE"), wells(1, 8, 1, "U2OS")], ignore_index=True)
    table.loc[table["Metadata_sirna_id"] == 5, "Metadata_control_type"] = "poscon"
    table.loc[:1, "Metadata_sirna_id"] = 90  # a class in one experiment alone
    chosen = mm.measurable(table)
    assert list(chosen) == ["HUVEC", "RPE"], "U2OS has one experiment"
    assert set(table["Metadata_sirna_id"][chosen["HUVEC"]]) == {1, 2, 3, 4}
    f = RNG(0).normal(size=(len(table), 4))
    (entry,) = [e for e in mm.mixing_metrics({"none": f}, table) if "neighbours" in e["metric"]]
    n = {line: len(rows) for line, rows in chosen.items()}
    wells_of = {line: row["wells"] for line, row in entry["by_cell_line"].items()}
    assert wells_of == n == {"HUVEC": 16, "RPE": 21}
    assert entry["none"] == pytest.approx(sum(entry["by_cell_line"][k]["none"] * n[k] / 37 for k in n))


def test_of_many_wells_whole_classes_are_drawn_by_the_seed():
    label = np.repeat(np.arange(50), 4)
    rows = mm.whole_classes(label, 42, 0)
    assert len(rows) == 40 and np.isin(label, label[rows]).sum() == 40
    np.testing.assert_array_equal(rows, mm.whole_classes(label, 42, 0))
    assert set(label[rows]) != set(label[mm.whole_classes(label, 42, 1)])
    assert len(mm.whole_classes(label, 1, 0)) == 8, "two classes at least"
    assert len(mm.whole_classes(label, 2000, 0)) == 200


def test_one_experiment_a_line_cannot_be_measured():
    with pytest.raises(InputError, match="two experiments"):
        mm.measurable(pd.concat([wells(1), wells(1, line="RPE")], ignore_index=True))


def test_the_table_says_what_is_missing_without_copairs(monkeypatch):
    monkeypatch.setattr(mm, "has_copairs", lambda: False)
    table = wells(2, 4)
    entries = mm.mixing_metrics({"none": embedded(table, 1, 1)}, table)
    assert len(entries) == 4
    said = mm.metrics_table(entries, ["none"])
    assert said.splitlines()[0].split() == ["none", "chance", "wanted"]
    shown = said.splitlines()[1].split()
    assert shown[-3:-1] == [f"{entries[0]['none']:.3f}", f"{entries[0]['chance']['none']:.3f}"]
    assert "[hcs]" in said
    assert all(e["caveat"] in said for e in entries)
