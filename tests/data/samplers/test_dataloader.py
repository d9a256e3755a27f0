"""PlateBatchSampler in a torch DataLoader: one bio-batch a batch, every image once, ranks apart."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from abra_wilds import PlateBatchSampler
from abra_wilds.data.samplers.batches import PlateSampler
from abra_wilds.types import InputError

PLATES = torch.tensor([70] * 9 + [-3] * 5 + [4_000_000_000] * 4 + [8])  # the last is alone


def loaded(sampler, workers=0):
    """The rows of each batch that a DataLoader gives."""
    data = TensorDataset(torch.arange(len(PLATES)))
    return [rows.tolist() for (rows,) in DataLoader(data, batch_sampler=sampler, num_workers=workers)]


@pytest.mark.parametrize("ids", [PLATES, PLATES.tolist(), PLATES.numpy()], ids=["tensor", "list", "array"])
def test_batches_are_of_one_plate_and_hold_every_image_that_is_not_alone_once(ids):
    sampler = PlateBatchSampler(ids, 4, seed=3)
    batches = loaded(sampler)
    assert len(batches) == len(sampler) == 3 + 2 + 1
    assert all(len(set(PLATES[rows].tolist())) == 1 and 2 <= len(rows) <= 4 for rows in batches)
    assert sorted(row for rows in batches for row in rows) == list(range(18))
    assert any("left out" in note for note in sampler.notes)


def test_epochs_are_those_of_PlateSampler_whatever_ran_before():
    sampler, plain = PlateBatchSampler(PLATES, 4, seed=3), PlateSampler(PLATES.numpy(), 4, 3)
    orders = []
    for epoch in (0, 1, 5, 1):
        sampler.sampler.set_epoch(epoch)  # as Lightning does
        plain.set_epoch(epoch)
        orders.append(loaded(sampler))
        assert orders[-1] == [batch.rows.tolist() for batch in plain]
    assert orders[1] == orders[3] != orders[0]
    assert loaded(PlateBatchSampler(PLATES, 4, seed=4)) != orders[0]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batches_of_an_epoch(world):
    whole = PlateBatchSampler(PLATES, 4, seed=1)
    shares = [PlateBatchSampler(PLATES, 4, seed=1, rank=r, world=world) for r in range(world)]
    for sampler in (whole, *shares):
        sampler.set_epoch(2)
    found = [loaded(share) for share in shares]
    assert {len(batches) for batches in found} == {-(-len(whole) // world)} == {len(shares[0])}
    counts = Counter(tuple(rows) for batches in found for rows in batches)
    assert set(counts) == {tuple(rows) for rows in loaded(whole)}
    assert sum(counts.values()) - len(counts) == -len(whole) % world


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((["P1", "P2"], 2), "bio_batch must be 2 integers"),
        ((np.array([0.5, 1.5]), 2), "bio_batch must be 2 integers"),
        (([1, 2, 3], 2), "one image"),
        (([1, 1, 2, 2], 0), "batch_size must be at least 1"),
        (([1, 1, 2, 2], 2, 0, 0, 3), "rank 0 of 3 cannot take batches of 2"),
        (([1, 1, 2, 2], 2, 0, 2, 2), "rank 2 of 2"),
    ],
)
def test_what_makes_no_batches_is_refused(arguments, words):
    ids, size, *rest = arguments
    with pytest.raises(InputError, match=words):
        PlateBatchSampler(ids, size, **dict(zip(("seed", "rank", "world"), rest, strict=False)))
