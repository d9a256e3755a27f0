"""Metadata of profiles: what wells show, and what they are called."""

import numpy as np
import pytest

from abra_wilds.analysis import profiles
from abra_wilds.analysis.profiles import control_types, well_name
from abra_wilds.data.datasets.catalogue import load_dataset
from tests import runs


def test_well_types_come_from_the_table_or_from_the_classes_of_rxrx1(sim_root, root, tmp_path):
    assert set(control_types(load_dataset("rxrx1", root), root)) == {"trt", "negcon"}
    runs.small_root(sim_root, tmp_path, lambda rows: rows.drop(columns="well_type"))
    dataset = load_dataset("rxrx1", tmp_path)
    assert control_types(dataset, tmp_path) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "N_CLASSES", 9)
        patch.setattr(profiles, "FIRST_CONTROL", 6)
        found = control_types(dataset, tmp_path)
    expected = {**dict.fromkeys(range(6), "trt"), 6: "poscon", 7: "poscon", 8: "negcon"}
    assert found.tolist() == [expected[y] for y in dataset.y_array.tolist()]


def test_well_types_of_six_channels_come_from_its_tables(six_root):
    dataset = load_dataset("rxrx1_6ch", six_root)
    found = control_types(dataset, six_root)
    assert set(found) == {"trt", "negcon", "poscon"}
    np.testing.assert_array_equal(found != "trt", dataset.controls)


def test_well_names_have_two_digits():
    assert [well_name(n) for n in ("B02", "b2", "P24", "AF48", "17")] == ["B02", "B02", "P24", "AF48", "17"]
