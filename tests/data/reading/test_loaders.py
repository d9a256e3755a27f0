"""Loaders: the same batches with any number of workers, and faults that arrive as one sentence."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from abra_wilds.data.datasets.catalogue import load_dataset, make_grouper, split_subset
from abra_wilds.data.reading.dataset import ImageDataset
from abra_wilds.data.reading.images import Form, image_path, read_image
from abra_wilds.data.reading.loaders import Loader, coverage, make_eval_loader, make_train_loader
from abra_wilds.data.samplers.batches import SequentialSampler
from abra_wilds.types import InputError, groups_of

TRAIN = {
    "plate": {"train_loader": "plate", "batch_size": 6},
    "group": {"train_loader": "group", "batch_size": 12, "n_groups_per_batch": 3},
    "standard": {"train_loader": "standard", "batch_size": 48},
    "balanced": {"train_loader": "standard", "batch_size": 48, "uniform_over_groups": True},
    "pairs": {"train_loader": "pairs", "batch_size": 48},
    "controls": {"train_loader": "controls", "batch_size": 6},
}


def same(a, b):
    """Whether two lists of batches are equal in every tensor."""
    return len(a) == len(b) and all(
        torch.equal(p.x, q.x)
        and torch.equal(p.target.y, q.target.y)
        and torch.equal(p.g, q.g)
        and torch.equal(p.metadata, q.metadata)
        and torch.equal(p.rows, q.rows)
        and all(map(torch.equal, p.groups, q.groups))
        and ((p.context is q.context is None) or torch.equal(p.context, q.context))
        for p, q in zip(a, b, strict=True)
    )


def test_batches_hold_what_lies_on_disk(train, dataset, plates):
    loader = make_train_loader(train, plates, **TRAIN["group"])
    batch = next(iter(loader))
    assert batch.x.dtype == torch.uint8 and batch.target.y.dtype == batch.g.dtype == torch.int64
    for k, position in enumerate(batch.rows.tolist()):
        row = int(train.indices[position])
        assert torch.equal(batch.x[k], read_image(dataset, row))
        assert batch.target.y[k] == dataset.y_array[row]
        assert torch.equal(batch.metadata[k], dataset.metadata_array[row])
        assert batch.g[k] == plates.metadata_to_group(dataset.metadata_array[row : row + 1])[0]
    assert len(batch) == 12 and len(batch.groups) == 3
    assert all(len(batch.g[rows].unique()) == 1 for rows in batch.groups)
    assert sorted(torch.cat(batch.groups).tolist()) == list(range(12))
    first = [int(rows[0]) for rows in batch.groups]
    assert first == sorted(first), "in order of first appearance"


def test_groups_of_keeps_the_order_of_first_appearance():
    groups = groups_of(torch.tensor([7, 3, 7, 1, 3]))
    assert [rows.tolist() for rows in groups] == [[0, 2], [1, 4], [3]]
    assert groups_of(torch.empty(0, dtype=torch.int64)) == ()


@pytest.mark.parametrize("workers", [0, 1])
def test_bio_batches_travel_as_one_tensor_from_workers_and_to_devices(train, plates, workers):
    batch = next(iter(make_train_loader(train, plates, num_workers=workers, **TRAIN["group"])))
    there = batch.to(torch.device("meta"))
    for groups in (batch.groups, there.groups):
        assert len(groups) == 3 and len({rows.untyped_storage()._cdata for rows in groups}) == 1
    assert all(rows.device.type == "meta" for rows in there.groups)
    assert [len(rows) for rows in there.groups] == [len(rows) for rows in batch.groups]


@pytest.mark.parametrize("fields", [("experiment", "plate"), ("experiment",)])
def test_each_training_image_comes_once_an_epoch_in_batches_of_one_bio_batch(dataset, train, fields):
    loader = make_train_loader(train, make_grouper(dataset, fields), train_loader="plate", batch_size=6)
    for epoch in range(2):
        loader.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader)
        counted = Counter(row for batch in batches for row in batch.rows.tolist())
        assert counted == dict.fromkeys(range(len(train)), 1) and loader.images_per_epoch == len(train)
        columns = [dataset.metadata_fields.index(field) for field in fields]
        assert all(len(batch.metadata[:, columns].unique(dim=0)) == 1 for batch in batches)
        assert all(len(batch.groups) == 1 for batch in batches)
    assert coverage(loader) == 1.0


@pytest.mark.parametrize("name", TRAIN)
def test_batches_are_equal_for_0_1_and_2_workers_over_two_epochs(train, plates, name):
    seen = []
    for workers in (0, 1, 2):
        loader = make_train_loader(train, plates, seed=5, num_workers=workers, **TRAIN[name])
        batches = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            batches += list(loader)
        seen.append(batches)
    assert same(seen[0], seen[1]) and same(seen[0], seen[2])


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_generators_alone(train, plates, workers):
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    loader = make_train_loader(train, plates, num_workers=workers, **TRAIN["plate"])
    list(loader)
    list(loader)
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(
        before[1], np.random.get_state()[1]
    )


def test_an_epoch_left_early_does_not_change_the_next(train, plates):
    loader = make_train_loader(train, plates, num_workers=1, **TRAIN["plate"])
    next(iter(loader))
    assert same(list(loader), list(make_train_loader(train, plates, **TRAIN["plate"])))


def test_workers_compute_with_one_thread(train, plates):
    loader = make_train_loader(train, plates, num_workers=1, **TRAIN["standard"])
    loader.rows.dataset = Spy(loader.rows.dataset)
    x = next(iter(loader)).x
    assert int(x[0, 0, 0, 0]) == 1, "torch.get_num_threads() in the worker"


class Spy:
    """A data set whose images hold the number of threads of the process that made them."""

    def __init__(self, dataset):
        self.data_dir, self._input_array = dataset.data_dir, dataset._input_array

    def get_input(self, row):
        return torch.full((3, 32, 32), torch.get_num_threads(), dtype=torch.uint8)


def test_coverage_is_exact_for_plate_and_standard_and_drawn_for_group(train, plates):
    share = {name: coverage(make_train_loader(train, plates, **kwargs)) for name, kwargs in TRAIN.items()}
    assert share["plate"] == share["standard"] == 1
    # With replacement a row is missed with probability 1/e; with distinct rows in a batch less often.
    assert 0.55 < share["balanced"] < 0.72 and 0.5 < share["group"] < 0.8
    drop = make_train_loader(train, plates, train_loader="plate", batch_size=6, remainder="drop")
    assert coverage(drop) == 6 / 8


def test_evaluation_covers_the_split_once_and_rows_return_to_dataset_order(dataset, plates):
    val = split_subset(dataset, "val")
    standard = list(make_eval_loader(val, plates, eval_loader="standard", batch_size=50))
    grouped = list(make_eval_loader(val, plates, eval_loader="group", batch_size=10))
    assert torch.equal(torch.cat([batch.rows for batch in standard]), torch.arange(len(val)))
    assert all(len(batch) == 8 and len(batch.groups) == 1 for batch in grouped), "16 of a plate as 8 + 8"
    y = torch.empty(len(val), dtype=torch.int64)
    for batch in grouped:
        y[batch.rows] = batch.target.y
    assert torch.equal(y, torch.cat([batch.target.y for batch in standard]))


def test_unknown_loaders_are_named(train, plates):
    with pytest.raises(InputError, match=r"train_loader 'plates'; .*plate, group, standard, pairs, controls"):
        make_train_loader(train, plates, train_loader="plates", batch_size=6)
    with pytest.raises(InputError, match=r"eval_loader 'plate'; .*standard or group"):
        make_eval_loader(train, plates, eval_loader="plate", batch_size=6)


def damaged(root, damage):
    """The training split, its ninth image damaged, with a grouper and that image's path."""
    data = load_dataset("rxrx1", root)
    subset = split_subset(data, "train")
    path = image_path(data, int(subset.indices[8]))
    damage(path)
    return subset, make_grouper(data, ("experiment", "plate")), path


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "truncated": (cut_off, "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "cannot identify"),
    "a web page": (lambda path: path.write_text("<html>404</html>"), "cannot identify"),
    "missing": (lambda path: path.unlink(), "No such file"),
    "another size": (
        lambda path: Image.new("RGB", (32, 16)).save(path),
        r"shape \(3, 16, 32\) .* \(3, 32, 32\)",
    ),
    "another mode": (lambda path: Image.new("L", (32, 32)).save(path), r"shape \(1, 32, 32\)"),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_image_is_one_sentence_with_its_path(copied_root, name, workers):
    damage, match = DAMAGE[name]
    subset, grouper, path = damaged(copied_root, damage)
    loader = Loader(subset, grouper, SequentialSampler(len(subset), 4), num_workers=workers)
    batches = iter(loader)
    assert len([next(batches), next(batches)]) == 2, "the batches before it are given"
    with pytest.raises(InputError, match=match) as caught:
        next(batches)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_is_refused_even_where_another_library_allowed_it(
    copied_root, monkeypatch, workers
):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    subset, grouper, path = damaged(copied_root, cut_off)
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    with pytest.raises(InputError, match=f"{path} cannot be read"):
        list(Loader(subset, grouper, SequentialSampler(len(subset), 4), num_workers=workers))


def test_the_first_image_is_read_when_the_loader_is_made(copied_root):
    data = load_dataset("rxrx1", copied_root)
    subset = split_subset(data, "train")
    cut_off(image_path(data, int(subset.indices[0])))
    with pytest.raises(InputError, match=r"B02_s1.png cannot be read"):
        ImageDataset(subset, make_grouper(data, ["plate"]))


def test_tensors_of_six_channels_go_through(dataset, plates, train):
    class Six(Spy):
        def get_input(self, row):
            return torch.full((6, 32, 32), row % 256, dtype=torch.uint8)

    loader = make_train_loader(train, plates, **TRAIN["standard"])
    loader.rows.dataset, loader.rows.form = Six(dataset), Form((6, 32, 32), torch.uint8)
    batch = next(iter(loader))
    assert batch.x.shape == (48, 6, 32, 32)
    assert torch.equal(batch.x[:, 5, 0, 0].long(), torch.from_numpy(train.indices)[batch.rows] % 256)
