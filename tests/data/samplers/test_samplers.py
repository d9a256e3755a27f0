"""Samplers: what an epoch holds, from (seed, epoch) alone, and WILDS' semantics where they are WILDS'."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from abra_wilds.compat.imports import import_wilds
from abra_wilds.data.samplers.batches import (
    BalancedSampler,
    GroupedSampler,
    GroupSampler,
    PlateSampler,
    SequentialSampler,
    ShuffledSampler,
    even_chunks,
    members_of,
)
from abra_wilds.data.samplers.paired import ControlSampler, PairSampler
from abra_wilds.types import InputError
from tests.runs import drawn

# Bio-batches of 30, 25, 31, 24 rows, their rows mixed, their ids not contiguous.
SIZES = {7: 30, 2: 25, 11: 31, 5: 24}
GROUP_OF = np.random.default_rng(1).permutation(np.repeat(list(SIZES), list(SIZES.values())))
N = len(GROUP_OF)
CLASS_OF = np.random.default_rng(2).integers(20, size=N)

MADE = {
    "plate even": lambda seed: PlateSampler(GROUP_OF, 10, seed),
    "plate drop": lambda seed: PlateSampler(GROUP_OF, 10, seed, "drop"),
    "group": lambda seed: GroupSampler(GROUP_OF, 12, 3, seed),
    "shuffled": lambda seed: ShuffledSampler(N, 12, seed),
    "balanced": lambda seed: BalancedSampler(GROUP_OF, 12, seed),
    "pairs": lambda seed: PairSampler(GROUP_OF, CLASS_OF, 12, seed),
    "controls": lambda seed: ControlSampler(GROUP_OF, CLASS_OF < 4, 12, seed),
    "few controls": lambda seed: ControlSampler(GROUP_OF, CLASS_OF < 4, 12, seed, 3),
    "sequential": lambda seed: SequentialSampler(N, 12),
    "grouped": lambda seed: GroupedSampler(GROUP_OF, 12),
}


@pytest.mark.parametrize("name", MADE)
def test_every_sampler_says_how_many_batches_and_images_it_gives(name):
    sampler = MADE[name](0)
    batches = list(sampler)
    assert len(sampler) == len(batches)
    assert sampler.images_per_epoch == sum(map(len, batches))
    for batch in batches:
        assert batch.rows.dtype == np.int64 and batch.rows.min() >= 0 and batch.rows.max() < N
        assert batch.context is None or (
            "controls" in name and batch.context.any() and batch.context.shape == batch.rows.shape
        )


@pytest.mark.parametrize("name", MADE)
def test_order_depends_on_seed_and_epoch_alone(name):
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    sampler, again = MADE[name](3), MADE[name](3)
    first = drawn(sampler)
    assert drawn(sampler) == first  # the epoch is unchanged, so is the order
    again.set_epoch(1)
    later = drawn(again)
    again.set_epoch(0)
    assert drawn(again) == first
    if name not in ("sequential", "grouped"):
        assert later != first and drawn(MADE[name](4)) != first
    assert np.array_equal(before[0], np.random.get_state()[1]) and torch.equal(
        before[1], torch.get_rng_state()
    )


def test_even_plates_cover_each_row_once_with_pure_batches_of_like_size():
    batches = drawn(MADE["plate even"](0))
    assert sorted(row for rows in batches for row in rows) == list(range(N))
    sizes: dict[int, list[int]] = {}
    for rows in batches:
        (group,) = set(GROUP_OF[rows])
        sizes.setdefault(int(group), []).append(len(rows))
    assert {group: sorted(found) for group, found in sizes.items()} == {
        7: [10, 10, 10], 2: [8, 8, 9], 11: [7, 8, 8, 8], 5: [8, 8, 8],
    }  # fmt: skip


def test_plates_are_interleaved_and_reshuffled():
    sampler = MADE["plate even"](0)
    order = [GROUP_OF[rows[0]] for rows in drawn(sampler)]
    assert order != sorted(order, key=order.index)
    sampler.set_epoch(1)
    assert set(map(frozenset, drawn(sampler))) != set(map(frozenset, drawn(MADE["plate even"](0))))


def test_drop_keeps_full_batches_only_and_no_row_twice():
    batches = drawn(MADE["plate drop"](0))
    rows = [row for chunk in batches for row in chunk]
    assert {len(chunk) for chunk in batches} == {10} and len(batches) == 3 + 2 + 3 + 2
    assert len(set(rows)) == len(rows)
    assert all(len(set(GROUP_OF[chunk])) == 1 for chunk in batches)


def test_a_bio_batch_smaller_than_the_batch_is_a_smaller_batch():
    sampler = PlateSampler(GROUP_OF, 25, 0, name_of=lambda group: f"plate {group}")
    batches = [sorted(batch) for batch in drawn(sampler)]
    assert sorted(row for batch in batches for row in batch) == list(range(N))
    assert [b for b in batches if len(b) == 24] == [np.flatnonzero(GROUP_OF == 5).tolist()]
    (note,) = sampler.notes
    assert "1 of 4 bio-batches" in note and "smallest has 24: plate 5" in note
    assert PlateSampler(GROUP_OF, 10, 0).notes == ()
    with pytest.raises(InputError, match="remainder"):
        PlateSampler(GROUP_OF, 10, 0, "odd")


@pytest.mark.parametrize("remainder", ["even", "drop"])
def test_an_image_that_is_alone_in_its_bio_batch_is_left_out_and_counted(remainder):
    sampler = PlateSampler(np.append(GROUP_OF, 9), 8, 0, remainder)
    assert N not in {row for batch in drawn(sampler) for row in batch}
    assert min(map(len, sampler)) >= 2 and sampler.images_per_epoch == sum(map(len, sampler))
    (note,) = sampler.notes
    assert "1 images are alone" in note and "left out" in note


def test_without_a_bio_batch_of_two_images_there_are_no_batches():
    with pytest.raises(InputError, match="groupby_fields"):
        PlateSampler(np.arange(5), 2, 0)


@pytest.mark.parametrize("n", [3, 5, 9])
def test_no_batch_of_one_image_is_cut_from_a_bio_batch_or_left_at_the_end(n):
    """Of batches of two and an odd number of images, one batch has three."""
    for sampler in (PlateSampler(np.zeros(n, int), 2, 0), ShuffledSampler(n, 2, 0)):
        sizes = [len(batch) for batch in sampler]
        assert sorted(sizes) == [2] * ((n - 3) // 2) + [3] and len(sampler) == len(sizes)
        assert sorted(row for batch in drawn(sampler) for row in batch) == list(range(n))


def test_bio_batches_of_2_to_200_images_train_with_batches_of_32():
    sizes = [2, 3, 31, 32, 33, 64, 65, 127, 200]
    sampler = PlateSampler(np.repeat(np.arange(len(sizes)), sizes), 32, 0)
    batches = drawn(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(sum(sizes)))
    assert {len(b) for b in batches} <= set(range(2, 33))


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("distinct", [True, False])
def test_group_sampler_draws_as_wilds_does(uniform, distinct):
    import_wilds()
    from wilds.common.data_loaders import GroupSampler as Theirs

    theirs = Theirs(torch.from_numpy(GROUP_OF), 12, 3, uniform, distinct)
    ours = GroupSampler(GROUP_OF, 12, 3, 0, uniform, distinct)
    assert len(theirs) == len(ours) == N // 12
    state = np.random.get_state()
    np.random.seed(0)
    found = [_draws(theirs, 300), _draws(ours, 300)]
    np.random.set_state(state)
    for blocks, repeats, _ in found:
        assert blocks == {4}, "four consecutive rows of one bio-batch"
        assert repeats == (not distinct), "a bio-batch comes twice in a batch only where that is allowed"
    shares = [draws for _, _, draws in found]
    # 8,100 draws each: a share of 0.25 has a standard deviation of 0.005.
    for group in SIZES:
        assert shares[0][group] == pytest.approx(shares[1][group], abs=0.03)
        if uniform:
            assert shares[1][group] == pytest.approx(1 / 4, abs=0.02)
        elif not distinct:
            assert shares[1][group] == pytest.approx(SIZES[group] / N, abs=0.02)


def _draws(sampler, epochs):
    """Rows drawn of a bio-batch, whether one repeats in a batch, and the share of each bio-batch."""
    blocks, repeats, counted = set(), False, Counter()
    for epoch in range(epochs):
        if ours := isinstance(sampler, GroupSampler):
            sampler.set_epoch(epoch)
        for batch in sampler:
            rows = np.asarray(batch.rows if ours else batch).reshape(3, 4)
            parts = GROUP_OF[rows]
            assert (parts == parts[:, :1]).all()
            assert all(len(set(part)) == 4 for part in rows.tolist())
            blocks.add(parts.shape[1])
            repeats |= len(set(parts[:, 0])) < 3
            counted.update(parts[:, 0].tolist())
    return blocks, repeats, {group: counted[group] / sum(counted.values()) for group in SIZES}


def test_group_sampler_repeats_rows_of_a_small_bio_batch_as_wilds_does():
    group_of = np.repeat([0, 1], [5, 20])
    sampler = GroupSampler(group_of, 10, 2, 0)
    small = [rows for batch in drawn(sampler) for rows in [batch[:5], batch[5:]] if rows[0] < 5]
    assert small and any(len(set(rows)) < 5 for rows in small), "5 of 5 rows are drawn with replacement"


@pytest.mark.parametrize(
    ("args", "size", "groups", "said"),
    [
        ((12, 3, 0), 12, 3, ()),
        ((11, 3, 0), 9, 3, ("9 images", "3 of each of 3")),
        ((10, 5, 0), 8, 4, ("8 images", "4 of the 5 that were asked for")),
        ((120, 4, 0), 120, 4, ()),
    ],
)
def test_batches_of_fewer_images_or_bio_batches_than_were_asked_for_are_noted(args, size, groups, said):
    sampler = GroupSampler(GROUP_OF, *args)
    assert {len(batch) for batch in sampler} == {size} and len(sampler) >= 1
    assert all(len(set(GROUP_OF[rows])) == groups for rows in drawn(sampler))
    assert len(sampler.notes) == bool(said) and all(part in sampler.notes[0] for part in said)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ((12, 0, 0), r"n_groups_per_batch \(0\)"),
        ((3, 4, 0), r"n_groups_per_batch \(4\) .*batch_size \(3\)"),
        ((0, 1, 0), "batch_size .*got 0"),
    ],
)
def test_group_batches_that_cannot_be_made_are_refused(args, match):
    with pytest.raises(InputError, match=match):
        GroupSampler(GROUP_OF, *args)


def test_more_groups_than_present_are_fine_where_they_may_repeat():
    assert len(next(iter(GroupSampler(GROUP_OF, 10, 5, 0, distinct_groups=False)))) == 10


def test_shuffled_covers_each_row_once_and_keeps_the_smaller_last_batch():
    batches = drawn(MADE["shuffled"](0))
    assert sorted(row for rows in batches for row in rows) == list(range(N))
    assert [len(rows) for rows in batches] == [12] * 9 + [2]


def test_balanced_draws_every_bio_batch_alike_with_replacement():
    group_of = np.repeat([0, 1], [10, 990])
    rows = [row for batch in drawn(BalancedSampler(group_of, 10, 0)) for row in batch]
    # 1,000 draws: a standard deviation of 0.016.
    assert np.mean(np.asarray(rows) < 10) == pytest.approx(0.5, abs=0.06)
    assert len(set(rows)) < len(rows) == 1000


def test_evaluation_orders():
    assert [row for rows in drawn(MADE["sequential"](0)) for row in rows] == list(range(N))
    batches = drawn(MADE["grouped"](0))
    assert sorted(row for rows in batches for row in rows) == list(range(N))
    assert all(len(set(GROUP_OF[rows])) == 1 and len(rows) <= 12 and rows == sorted(rows) for rows in batches)
    order = [int(GROUP_OF[rows[0]]) for rows in batches]
    assert list(dict.fromkeys(order)) == list(dict.fromkeys(GROUP_OF.tolist()))
    assert order == sorted(order, key=order.index), "one bio-batch after the other"


def test_members_and_chunks():
    assert {group: rows.tolist() for group, rows in members_of([7, 3, 7, -1]).items()} == {
        7: [0, 2],
        3: [1],
        -1: [3],
    }
    assert [len(part) for part in even_chunks(np.arange(308), 128)] == [103, 103, 102]
    assert [len(part) for part in even_chunks(np.arange(5), 128)] == [5]
