"""Partners of a class, and control wells that come with each part of a bio-batch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from abra_wilds.config.data import DataConfig
from abra_wilds.data.datasets.catalogue import make_grouper
from abra_wilds.data.datasets.controls import control_rows
from abra_wilds.data.reading.loaders import coverage, make_train_loader
from abra_wilds.data.samplers.paired import ControlSampler, PairSampler
from abra_wilds.types import InputError
from tests.runs import drawn

# Class 9 lies in one bio-batch alone, class 8 is a single row, class 7 has one row elsewhere.
GROUP_OF = np.array([5, 5, 2, 2, 7, 5, 2, 7, 2, 2, 2, 7, 5, 5, 7])
CLASS_OF = np.array([1, 1, 1, 1, 1, 3, 3, 3, 9, 9, 9, 8, 7, 7, 7])
N = len(GROUP_OF)

PLATES = np.repeat([4, 1, 6], [23, 17, 9])
CONTROL = np.arange(len(PLATES)) % 4 == 1


def pairs_of(sampler, epochs=1):
    """(row, partner) of all epochs, split in the middle of each batch."""
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for rows in drawn(sampler):
            half = len(rows) // 2
            yield from zip(rows[:half], rows[half:], strict=True)


def allowed(row, cross):
    """The partners of a row, by the definition."""
    same = {r for r in range(N) if CLASS_OF[r] == CLASS_OF[row]}
    if not cross:
        return same
    elsewhere = {r for r in same if GROUP_OF[r] != GROUP_OF[row]}
    return elsewhere or same - {row} or {row}


@pytest.mark.parametrize("cross", [True, False])
def test_every_row_meets_every_partner_it_may_have_alike_and_no_other(cross):
    epochs = 600
    pairs = Counter(pairs_of(PairSampler(GROUP_OF, CLASS_OF, 4, 0, cross), epochs))
    for row in range(N):
        partners = allowed(row, cross)
        found = {partner: count for (first, partner), count in pairs.items() if first == row}
        assert found.keys() == partners
        assert sum(found.values()) == epochs, "each row is first once an epoch"
        for count in found.values():  # a share of 1/5 has a standard deviation of 0.016
            assert count / epochs == pytest.approx(1 / len(partners), abs=0.09)


def test_rows_whose_partner_cannot_cross_are_counted():
    assert PairSampler(GROUP_OF, CLASS_OF, 4, 0).same_group == 4  # three of class 9 and the one of class 8
    assert PairSampler(GROUP_OF, CLASS_OF, 4, 0, cross=False).same_group == 0


def test_an_epoch_of_pairs_is_twice_the_split_and_its_last_batch_is_even():
    sampler = PairSampler(GROUP_OF, CLASS_OF, 4, 0)
    sizes = list(map(len, sampler))
    assert sizes == [4] * 7 + [2] and len(sampler) == 8 and sampler.images_per_epoch == 30


@pytest.mark.parametrize("batch_size", [0, 7])
def test_a_batch_without_halves_is_refused(batch_size):
    with pytest.raises(InputError, match=rf"batch_size \({batch_size}\) must be even"):
        PairSampler(GROUP_OF, CLASS_OF, batch_size, 0)


@pytest.mark.parametrize("n_controls", [0, 2, 100])
def test_each_row_is_learned_from_once_and_the_context_is_the_plates_other_controls(n_controls):
    sampler = ControlSampler(PLATES, CONTROL, 6, 0, n_controls)
    learned, sizes = Counter(), {}
    for batch in sampler:
        own = batch.learned.tolist()
        context = batch.rows[len(own) :].tolist()
        assert batch.rows.tolist() == own + context, "the context comes last"
        (plate,) = set(PLATES[own + context])
        controls = set(np.flatnonzero(CONTROL & (plate == PLATES)).tolist())
        assert len(set(own + context)) == len(batch), "no image counts twice"
        assert set(context) <= controls - set(own)
        assert len(context) == min(n_controls or 100, len(controls - set(own)))
        learned.update(own)
        sizes.setdefault(plate, []).append((len(own), len(controls & set(own))))
    assert learned == dict.fromkeys(range(len(PLATES)), 1)
    assert {plate: len(found) for plate, found in sizes.items()} == {4: 4, 1: 3, 6: 2}
    for found in sizes.values():
        for counts in zip(*found, strict=True):
            assert max(counts) - min(counts) <= 1 and max(counts) <= 6


def test_a_plate_without_controls_is_named():
    with pytest.raises(InputError, match=r"control wells .*plate 6"):
        ControlSampler(PLATES, CONTROL & (PLATES != 6), 6, 0, name_of=lambda group: f"plate {group}")
    with pytest.raises(InputError, match=r"batch_size .*got 0"):
        ControlSampler(PLATES, CONTROL, 0, 0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n_controls_per_batch": -1}, "--n_controls_per_batch .*got -1"),
        ({"mix": "lisa"}, "--mix .*--train_loader pairs; got 'lisa'"),
    ],
)
def test_settings_that_no_loader_can_follow_are_refused(values, said):
    with pytest.raises(InputError, match=said):
        DataConfig(**values)
    DataConfig(mix="lisa", train_loader="pairs")


def test_the_controls_loader_marks_control_wells_of_the_plate_as_context(dataset, train, plates):
    loader = make_train_loader(train, plates, train_loader="controls", batch_size=6)
    is_control = torch.from_numpy(control_rows(dataset)[np.asarray(train.indices)])
    counted: Counter[int] = Counter()
    some = 0
    for batch in loader:
        assert len(batch.groups) == 1 and len(batch.groups[0]) == len(batch)
        context = torch.zeros(len(batch), dtype=torch.bool) if batch.context is None else batch.context
        counted.update(batch.rows[~context].tolist())
        assert is_control[batch.rows[context]].all()
        assert torch.equal(batch.target.y, train.y_array[batch.rows])
        assert torch.equal(batch.metadata, train.metadata_array[batch.rows])
        some += int(context.sum())
    assert counted == dict.fromkeys(range(len(train)), 1) and coverage(loader) == 1.0
    assert some == loader.images_per_epoch - len(train) > 0


def test_the_pairs_loader_gives_partners_of_one_class_from_another_experiment(dataset, train):
    loader = make_train_loader(
        train, make_grouper(dataset, ("experiment",)), train_loader="pairs", batch_size=10
    )
    assert loader.sampler.same_group == 0
    for batch in loader:
        first, second = torch.arange(len(batch)).chunk(2)
        assert torch.equal(batch.target.y[first], batch.target.y[second])
        assert (batch.g[first] != batch.g[second]).all()
        assert batch.context is None
