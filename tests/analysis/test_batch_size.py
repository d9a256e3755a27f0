"""Fig. 7: each draw predicts as `evaluate.predict` does over the same batches."""

import numpy as np
import pytest

from abra_wilds.analysis.batch_size import batch_size_curve, checked_sizes, partition
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.data.samplers.passes import BioBatch, PassSampler
from abra_wilds.engine.evaluation.evaluate import predict
from abra_wilds.errors import InputError
from abra_wilds.tta.adapters import own_statistics


def accuracy(saved, split, plan):
    """The share of right images of a split, by the main command's way to predict."""
    subset, setup = saved.setup.subsets[split], saved.setup
    loader = Loader(subset, setup.grouper, PassSampler(plan, 5))
    y = predict(saved.method, loader, setup.device, adapter=own_statistics)
    return float((y == subset.y_array).double().mean())


def test_every_accuracy_is_that_of_predicting_the_same_batches(saved):
    rows = batch_size_curve(saved, "test", sizes=[4, 7, 16], draws=3)
    drawn = [(4, 0), (4, 1), (4, 2), (7, 0), (7, 1), (7, 2)]
    assert [(r.size, r.draw) for r in rows] == [(None, 0), *drawn, (16, 0)]
    members = list(saved.members("test").values())
    for r in rows:
        plan = []
        for number, plate in enumerate(members):
            parts = partition(len(plate), (r.size, r.draw), 8, (0, number))
            plan.append(BioBatch(tuple(plate[part] for part in parts), r.size is not None))
        assert r.acc == pytest.approx(accuracy(saved, "test", plan), abs=1e-9)
        sizes = [len(rows) for group in plan for rows in group.passes]
        assert (r.fewest, r.largest, r.n) == (min(sizes), max(sizes), 64)


@pytest.mark.parametrize("n", range(2, 40))
def test_batches_hold_each_image_once_and_are_as_near_to_the_size_as_equal_parts_can_be(n):
    for size in range(2, n + 1):
        parts = partition(n, (size, 0), 8, (0, 0))
        assert sorted(np.concatenate(parts).tolist()) == list(range(n))
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1 and min(lengths) >= 2
        off = {k: abs(n / k - size) for k in range(1, n + 1)}
        assert len(parts) == n / size or abs(len(parts) - n / size) <= 0.5, off


def test_draws_differ_and_repeat_themselves():
    first, again, other = (partition(30, (5, draw), 8, (0, 0)) for draw in (0, 0, 1))
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


def test_sizes_are_powers_of_two_that_part_the_largest_bio_batch_and_the_whole_of_it():
    assert checked_sizes(308, None) == [4, 8, 16, 32, 64, 128, 308]
    assert checked_sizes(3, None) == [3]


@pytest.mark.parametrize("size", [1, 17])
def test_a_size_that_cannot_be_drawn_is_refused(saved, size):
    with pytest.raises(InputError, match=f"{size} images .*2 to 16"):
        batch_size_curve(saved, "test", sizes=[size])


def test_an_unknown_split_is_refused(saved):
    with pytest.raises(InputError, match=r"'dev'.* train, val, test, id_test"):
        batch_size_curve(saved, "dev")
