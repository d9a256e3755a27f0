"""How a bio-batch is cut: at random, alike every time, with all its plates in every part."""

import numpy as np
import pytest

from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.data.datasets.catalogue import load_dataset, split_subset
from abra_wilds.tta.plan import random_parts, split_plan


@pytest.fixture(scope="module")
def dataset(root):
    """Two lines; of an experiment two plates of 16 images in val."""
    return load_dataset("rxrx1", root)


@pytest.mark.parametrize("most", [77, 154])
def test_parts_of_an_experiment_contain_its_plates_in_proportion(most):
    """Four plates of 308 wells, as in RxRx1; each part within five deviations of a quarter a plate."""
    plates = np.repeat(np.arange(4), 308)
    rows = 1000 + np.arange(len(plates))
    parts = random_parts(rows, most, seed=17)
    assert np.array_equal(np.sort(np.concatenate(parts)), rows)
    for part in parts:
        counts = np.bincount(plates[part - 1000], minlength=4)
        deviation = np.sqrt(len(part) * 3 / 16 * (1 - len(part) / len(rows)))
        assert np.abs(counts - len(part) / 4).max() <= 5 * deviation
        assert np.array_equal(part, np.sort(part))


def test_parts_are_drawn_alike_every_time_and_otherwise_for_each_bio_batch(dataset):
    e = EvalConfig(tta="plate_bn", tta_group="experiment", tta_min=2, tta_batch_size=6)
    plan, again = (split_plan(split_subset(dataset, "val"), e, 8) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(plan[0].passes, again[0].passes, strict=True))
    one, other = (np.argsort(np.argsort(np.concatenate(group.passes))) for group in plan[:2])
    assert len(one) == len(other) and not np.array_equal(one, other)


def test_a_bio_batch_that_is_not_cut_stays_in_dataset_order():
    (whole,) = random_parts(np.arange(5, 12), 7, seed=3)
    assert whole.tolist() == list(range(5, 12))
