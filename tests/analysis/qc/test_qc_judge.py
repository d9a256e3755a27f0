"""Rates at which planted faults are found, a site or plate at a time, and clean ones are flagged."""

from __future__ import annotations

import numpy as np
import pytest

from abra_wilds.analysis.qc.judge import LIMITS, judge_plates, judge_sites, nuclear_channel, robust_z
from abra_wilds.analysis.qc.measures import MEASURES
from tests.analysis.qc import planted
from tests.analysis.qc.planted import CHANNELS


def test_robust_z_is_the_distance_in_scaled_median_deviations():
    rng = np.random.default_rng(0)
    values, group = rng.standard_normal((40, 3)), np.repeat([0, 1, 2], [20, 17, 3])
    z = robust_z(values, group, least=8, floor=0)
    for g in (0, 1):
        for c in range(3):
            own = values[group == g, c]
            mad = np.median([abs(v - np.median(own)) for v in own])
            np.testing.assert_allclose(z[group == g, c], (own - np.median(own)) / (1.4826 * mad))
    assert (z[group == 2] == 0).all()


def test_few_sites_of_a_clean_screen_are_flagged():
    _, measures, plate, batch = planted.clean()
    assert sum(map(bool, judge_sites(measures, plate, CHANNELS, 0))) <= 0.02 * len(plate)
    assert sum(map(bool, judge_plates(measures, plate, batch, CHANNELS)[0])) <= 1


@pytest.mark.parametrize(
    ("fault", "reason", "least"),
    [
        (planted.blurred, "blurred", 0.9),
        (planted.saturated, "saturated phalloidin", 1),
        (planted.empty, "empty", 1),
        (planted.blank, "blank SYTO 14", 1),
    ],
)
def test_a_fault_at_one_site_is_found(fault, reason, least):
    """Each site in turn has the fault in a plate that is clean otherwise."""
    x, measures, plate, _ = planted.clean()
    bad = planted.measured(fault(x))
    found = []
    for row, own in enumerate(bad):
        rows = np.flatnonzero(plate == plate[row])
        there = measures[rows].copy()
        there[rows == row] = own
        judged = judge_sites(there, np.zeros(len(rows), dtype=int), CHANNELS, 0)
        found.append(reason in judged[int(np.flatnonzero(rows == row)[0])])
    assert np.mean(found) >= least


def test_a_plate_of_half_the_stain_is_found_against_its_batch_and_screen():
    x, measures, plate, batch = planted.clean()
    half = planted.measured(planted.half_stained(x))
    found = []
    for p in range(len(batch)):
        judged, stain = judge_plates(
            np.where((plate == p)[:, None, None], half, measures), plate, batch, CHANNELS
        )
        found.append(any(reason.startswith("stain") for reason in judged[p]))
        assert np.median(stain[p] / judge_plates(measures, plate, batch, CHANNELS)[1][p]) < 0.7
    assert np.mean(found) >= 0.75


def test_a_plates_contrast_is_over_the_median_of_the_others():
    measures = np.ones((12, 1, len(MEASURES)))
    contrast = np.array([8.0, 8, 8.2, 8.2, 7.9, 7.9, 8.1, 8.1, 8, 8, 2, 2])
    measures[:, 0, MEASURES.index("contrast")] = contrast
    found, stain = judge_plates(measures, np.repeat(np.arange(6), 2), np.zeros(6, dtype=int), ["DNA"])
    assert [bool(r) for r in found] == [False] * 5 + [True]
    assert found[5] == ["stain DNA x0.25 of the batch's"]
    assert stain[5, 0] == pytest.approx(2 / np.median([8, 8.2, 7.9, 8.1, 8]))


def test_four_plates_are_not_compared():
    measures = np.ones((4, 1, len(MEASURES)))
    measures[3] = 100
    found, stain = judge_plates(measures, np.arange(4), np.zeros(4, dtype=int), ["DNA"])
    assert found == [[]] * 4 and np.isnan(stain).all()


def test_dead_nuclei_beside_living_stains_are_a_blank_channel_and_no_empty_well():
    x, measures, plate, _ = planted.clean()
    y = x[:1].copy()
    y[:, 0] = planted.grey(3 + np.random.default_rng(0).standard_normal(y[:, 0].shape))
    there = measures[plate == 0].copy()
    there[0] = planted.measured(y)[0]
    assert judge_sites(there, np.zeros(8, dtype=int), CHANNELS, 0)[0] == ["blank Hoechst"]


def test_a_plate_of_constant_images_is_blank_without_a_warning(recwarn):
    measures = planted.measured(np.full((9, 2, 32, 32), 7, np.uint8))
    found = judge_sites(measures, np.zeros(9, dtype=int), ["DNA", "ER"], 0)
    assert found == [["blank DNA", "blank ER"]] * 9
    assert not recwarn.list


def test_a_site_far_brighter_than_its_plate_is_flagged_either_way():
    _, measures, plate, _ = planted.clean()
    there = measures[plate == 0].copy()
    there[0, 1, MEASURES.index("mean")] *= 200
    there[1, 4, MEASURES.index("mean")] /= 200
    found = judge_sites(there, np.zeros(8, dtype=int), CHANNELS, 0)
    assert found[:2] == [["bright ConA"], ["dim MitoTracker"]] and not any(found[2:])


def test_nuclei_are_found_by_name_and_every_limit_is_said():
    assert nuclear_channel(["AGP", "OrigDNA", "ER"]) == 1
    assert {name for name, _, _ in LIMITS.said()} == set(vars(LIMITS))


def test_a_plate_of_mostly_empty_wells_is_judged_by_those_with_cells():
    x, measures, plate, batch = planted.clean()
    bad = measures.copy()
    rows = np.flatnonzero(plate == 3)
    bad[rows[:6]] = planted.measured(planted.empty(x[rows[:6]]))
    found = judge_sites(bad, plate, CHANNELS, 0)
    assert [found[row] for row in rows] == [["empty"]] * 6 + [[]] * 2
    cells = np.array(["empty" not in reasons for reasons in found])
    stain = judge_plates(bad, plate, batch, CHANNELS, cells)[1]
    own = np.median(measures[rows[6:], :, MEASURES.index("contrast")], 0)
    others = [np.median(measures[plate == p, :, MEASURES.index("contrast")], 0) for p in range(12) if p != 3]
    np.testing.assert_allclose(stain[3], own / np.median(others, 0))


def test_a_channel_without_light_on_a_whole_plate_is_its_stain():
    x, measures, plate, batch = planted.clean()
    bad = np.where((plate == 5)[:, None, None], planted.measured(planted.blank(x)), measures)
    found, _ = judge_plates(bad, plate, batch, CHANNELS)
    assert any(reason.startswith("stain SYTO 14 x0.") for reason in found[5])
