"""Retrieval against sorting by hand, copairs' own results, and wells of which nothing is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from abra_wilds.analysis.metrics import retrieval
from tests.analysis.made_wells import (
    RNG,
    by_hand,
    embedded,
    measured_on,
    random_precision,
    wells,
)

pytest.importorskip("copairs", reason="the extra hcs is not installed")


def replicates(w, i, j):
    apart = w.batch[i] != w.batch[j] and w.position[i] != w.position[j]
    return apart and w.label[i] == w.label[j] and not w.negative[i]


def controls_of_the_plate(w, i, j):
    return w.plate[i] == w.plate[j] and w.negative[i] != w.negative[j]


def other_treatments(w, i, j):
    return w.label[i] != w.label[j]


@pytest.mark.parametrize("against", ["controls", "treatments"])
def test_map_is_that_of_sorting_by_cosine_over_pairs_across_experiments_and_positions(against):
    table = wells(3, 4, 2, controls=3 if against == "controls" else 0).iloc[:-1]
    f, own = embedded(table, 1, 1), measured_on(table)
    wrong = controls_of_the_plate if against == "controls" else other_treatments
    by_class = {}
    for i, (precision, P, L) in by_hand(f, own, replicates, wrong).items():
        by_class.setdefault(own.label[i], []).append((precision, random_precision(P, L)))
    expected = np.mean([np.mean(rows, axis=0) for rows in by_class.values()], axis=0)
    found, share = getattr(retrieval, f"against_{against}")(f, own)
    assert (found.value, found.chance) == pytest.approx(tuple(expected), abs=1e-5)
    assert found.parts[0].sum() / found.parts[1].sum() == pytest.approx(found.value)
    assert set(found.each) == {str(y) for y in by_class}
    assert share.value == np.mean([of["q"] < 0.05 for of in found.each.values()])


def test_a_pair_at_one_well_position_or_in_one_experiment_is_none():
    """Treatments that sit in the same well of every experiment have no replicate to find."""
    table = wells(3, 6, 1)
    assert retrieval.against_treatments(embedded(table, 0, 9), measured_on(table)) is not None
    table["Metadata_Well"] = [f"A{label:02}" for label in table["Metadata_sirna_id"]]
    assert retrieval.against_treatments(embedded(table, 0, 9), measured_on(table)) is None


def test_map_and_p_are_copairs_own_where_no_random_order_is_as_good_to_the_digit():
    from copairs.map import average_precision, mean_average_precision

    table = wells(4, 12, 2)
    f, own = embedded(table, 0.5, 0.7), measured_on(table)
    meta = pd.DataFrame({"label": own.label, "batch": own.batch, "position": own.position})
    scores = average_precision(meta, f, ["label"], ["batch", "position"], [], ["label"], progress_bar=False)
    theirs = mean_average_precision(scores, ["label"], 10_000, 0.05, seed=0, progress_bar=False)
    found, share = retrieval.against_treatments(f, own)
    ours = pd.DataFrame(found.each).T
    assert ours.index.tolist() == theirs["label"].astype(str).tolist()
    np.testing.assert_allclose(ours["map"], theirs["mean_average_precision"], atol=1e-5)
    np.testing.assert_allclose(ours["p"], theirs["p_value"], atol=3e-3)
    np.testing.assert_allclose(ours["q"], theirs["corrected_p_value"], atol=0.02)
    np.testing.assert_allclose(ours["q"], false_discovery_control(ours["p"]))
    assert 0 < share.value < 1 and share.value == theirs["below_corrected_p"].mean()


def test_of_one_control_a_plate_noise_is_not_retrieved_though_half_of_all_orders_are_perfect():
    table = wells(2, 40, 1, controls=1)
    f = RNG(3).normal(size=(len(table), 8))
    found, share = retrieval.against_controls(f, measured_on(table))
    assert share.value == 0
    assert min(of["p"] for of in found.each.values()) > 0.1


def test_random_embeddings_have_uniform_p_and_nothing_is_retrieved():
    table = wells(2, 150, 1)
    found, share = retrieval.against_treatments(RNG(0).normal(size=(len(table), 16)), measured_on(table))
    p = np.array([of["p"] for of in found.each.values()])
    assert share.value == 0 and 0.01 <= (p <= 0.05).mean() <= 0.12
    assert abs(found.value - found.chance) < 0.01


def test_equal_similarities_favour_nobody():
    """copairs alone would put right ones first, so that a constant embedding were perfect."""
    table = wells(2, 300, 1)
    found, _ = retrieval.against_treatments(np.ones((len(table), 3)), measured_on(table))
    assert abs(found.value - found.chance) < 0.02


def test_annotations_are_found_in_other_treatments_alone():
    table = wells(3, 12, 1)
    gene = table["Metadata_sirna_id"] // 3
    table["Metadata_gene"] = [f"g{k}" if k < 3 else "" for k in gene]
    f = embedded(table.assign(Metadata_sirna_id=gene), 0, 3)
    own = measured_on(table, "Metadata_gene")

    def right(w, i, j):
        return w.group[i] == w.group[j] and w.label[i] != w.label[j] and replicates_apart(w, i, j)

    def replicates_apart(w, i, j):
        return w.batch[i] != w.batch[j] and w.position[i] != w.position[j]

    known = own.of(own.group != "")
    rows = by_hand(f[own.group != ""], known, right, lambda w, i, j: w.group[i] != w.group[j])
    by_group = {}
    for i, (precision, _, _) in rows.items():
        by_group.setdefault(known.group[i], []).append(precision)
    found, share = retrieval.by_annotation(f, own)
    assert set(found.each) == {"g0", "g1", "g2"}
    assert found.value == pytest.approx(np.mean([np.mean(v) for v in by_group.values()]), abs=1e-5)
    assert found.value > 0.8 and share.value == 1
    assert retrieval.by_annotation(f, measured_on(table)) is None
