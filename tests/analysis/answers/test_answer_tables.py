"""Columns of answers against their definitions, one row at a time."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from abra_wilds.analysis.answers.tables import (
    agreement,
    calibrated,
    counted_in_wells,
    nearest_classes,
    predicted_columns,
    well_log_probs,
    wells_of_screen,
)


def test_the_five_likeliest_names_stand_in_order_with_probabilities_and_entropy():
    p = torch.tensor([[0.1, 0.4, 0.05, 0.2, 0.15, 0.1], [1.0, 0, 0, 0, 0, 0]], dtype=torch.float64)
    found = predicted_columns(p.log(), list("abcdef"))
    first = found.iloc[0]
    assert [first[f"Predicted{e}"] for e in ("", "_2", "_3")] == ["b", "d", "e"]
    assert [first[f"Probability{e}"] for e in ("", "_2", "_3", "_4", "_5")] == pytest.approx(
        [0.4, 0.2, 0.15, 0.1, 0.1]
    )
    assert first["Entropy"] == pytest.approx(-sum(x * math.log(x) for x in p[0].tolist()))
    assert found.iloc[1][["Predicted", "Probability", "Entropy"]].tolist() == ["a", 1.0, 0.0]
    assert "Predicted_6" not in found and list(predicted_columns(p[:, :2].log(), ["x", "y"]))[-1] == "Entropy"


def test_a_well_is_the_normalised_geometric_mean_of_its_sites():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]])
    log_p, well = torch.from_numpy(p).log(), np.array([0, 1, 0])
    joint = np.sqrt(p[0] * p[2])
    for flags in (None, np.array(["", "", ""], dtype=object)):
        found = well_log_probs(log_p, well, counted_in_wells(well, flags)).exp()
        np.testing.assert_allclose(found, [joint / joint.sum(), p[1]])
    flags = np.array(["dim ER", "blurred", ""], dtype=object)  # the only site of a well counts all the same
    np.testing.assert_allclose(well_log_probs(log_p, well, counted_in_wells(well, flags)).exp(), [p[2], p[1]])


def test_a_temperature_divides_the_logits_of_its_rows_alone():
    z = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    found = calibrated(z, torch.tensor([1.0, 4.0])).exp()[:, 0].tolist()
    assert found == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-0.5))])


def test_wells_keep_the_columns_that_their_sites_share():
    table = pd.DataFrame(
        {
            "Metadata_Plate": ["p", "q", "p", "p"],
            "Metadata_Well": ["A1", "A1", "A1", "B1"],
            "Metadata_Site": ["1", "1", "2", "1"],
            "Metadata_Dose": ["001", "", "001", "NA"],
        }
    )
    well, wells = wells_of_screen(table, ["Metadata_Plate", "Metadata_Well"])
    assert well.tolist() == [0, 1, 0, 2]
    assert wells.to_dict("list") == {
        "Metadata_Plate": ["p", "q", "p"],
        "Metadata_Well": ["A1", "A1", "B1"],
        "Metadata_Site_Count": [2, 1, 1],
        "Metadata_Dose": ["001", "", "NA"],
    }


def test_scores_are_of_labelled_rows_and_balanced_over_classes():
    found = agreement(["a", "a", "b", "c", "a"], ["a", "a", "a", None, "b"])
    assert found == {"n": 4, "accuracy": 0.5, "balanced_accuracy": pytest.approx((2 / 3 + 0) / 2)}
    assert agreement(["a"], [None]) == {}


def test_the_nearest_classes_are_by_cosine_from_the_mean_of_classes():
    rng = np.random.default_rng(0)
    centroids, features = rng.random((7, 4)) + 3, rng.random((3, 4)) + 3
    centroids[2] = np.nan
    names = [f"c{k}" for k in range(7)]
    found = nearest_classes(torch.from_numpy(features), torch.from_numpy(centroids), names)
    known = [k for k in range(7) if k != 2]
    mean = centroids[known].mean(0)
    for row, f in zip(found.to_dict("records"), features - mean, strict=True):
        cosine = {
            names[k]: (f @ (c := centroids[k] - mean)) / np.linalg.norm(f) / np.linalg.norm(c) for k in known
        }
        order = sorted(cosine, key=lambda name: -cosine[name])[:5]
        assert [row[f"Nearest{e}"] for e in ("", "_2", "_3", "_4", "_5")] == order
        assert row["Cosine_2"] == pytest.approx(cosine[order[1]])
