"""Windows: what workers read of each image is what cropping the whole image would have given."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from abra_wilds import fit, run_config
from abra_wilds.config.data import DataConfig
from abra_wilds.data.augment import transforms as T
from abra_wilds.data.datasets.catalogue import load_dataset, make_grouper, split_subset
from abra_wilds.data.reading.crops import Requests, draw_windows
from abra_wilds.data.reading.images import image_path
from abra_wilds.data.reading.loaders import Loader, make_train_loader
from abra_wilds.data.reading.pack import pack
from abra_wilds.data.samplers.batches import SequentialSampler
from abra_wilds.data.samplers.distributed import Rounds
from abra_wilds.engine import fit as fit_module
from abra_wilds.engine.inputs import method_batch
from abra_wilds.engine.setup import prepare
from abra_wilds.types import InputError
from tests import runs

SIDE = 12


@pytest.fixture(scope="module")
def packed_root(sim_root, tmp_path_factory):
    root = shutil.copytree(sim_root, tmp_path_factory.mktemp("packed") / "data")
    pack(load_dataset("rxrx1", root, data_format="png"))
    return root


@pytest.fixture(params=["png", "packed"])
def data(request, packed_root):
    """The training split and its plates, from files or from a pack."""
    dataset = load_dataset("rxrx1", packed_root, data_format=request.param)
    assert (dataset.pack is None) == (request.param == "png")
    return split_subset(dataset, "train"), make_grouper(dataset, ("experiment", "plate"))


@pytest.fixture
def small_crops(monkeypatch):
    """The paper's transform at the size of the tiny images: 12 pixels of 32, resized to 24."""
    monkeypatch.setattr(T, "CROP", SIDE)
    monkeypatch.setattr(T, "CROP_TO", 2 * SIDE)


def make(data, side=None, workers=0, loader="plate"):
    return make_train_loader(*data, train_loader=loader, batch_size=6, seed=3, side=side, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_windows_are_those_of_the_whole_images_whatever_reads_them(data, workers):
    whole, windowed = make(data), make(data, SIDE, workers)
    for epoch in range(2):
        for loader in (whole, windowed):
            loader.set_epoch(epoch)
        batches = list(windowed)
        assert len(batches) == len(whole)
        for a, b in zip(whole, batches, strict=True):
            assert (
                torch.equal(a.rows, b.rows) and torch.equal(a.g, b.g) and torch.equal(a.target.y, b.target.y)
            )
            assert b.cropped and not a.cropped and b.x.shape == (len(a), 3, SIDE, SIDE)
            windows = draw_windows(a.rows.tolist(), (3, epoch), 32, SIDE)
            for image, window, (top, left, side) in zip(a.x, b.x, windows, strict=True):
                assert torch.equal(window, image[:, top : top + side, left : left + side])


def test_rows_that_only_lend_their_statistics_have_windows_too(data):
    batches = list(make(data, SIDE, loader="controls"))
    assert any(batch.context is not None for batch in batches)
    assert all(batch.x.shape == (len(batch), 3, SIDE, SIDE) for batch in batches)


def test_only_windows_are_read_from_a_pack(packed_root):
    class Spy:
        def __init__(self, pack):
            self.pack, self.windows = pack, []

        def read(self, stem, window):
            self.windows.append(window)
            return self.pack.read(stem, window)

    dataset = load_dataset("rxrx1", packed_root, data_format="packed")
    loader = make((split_subset(dataset, "train"), make_grouper(dataset, ["plate"])), SIDE)
    loader.rows.dataset.pack = spy = Spy(dataset.pack)
    list(loader)
    assert len(spy.windows) == loader.images_per_epoch and all(side == SIDE for _, _, side in spy.windows)


def test_a_file_of_another_size_is_found_though_the_window_lies_inside_it(copied_root):
    dataset = load_dataset("rxrx1", copied_root)
    train = split_subset(dataset, "train")
    path = image_path(dataset, int(train.indices[5]))
    Image.new("RGB", (48, 48)).save(path)
    loader = Loader(train, make_grouper(dataset, ["plate"]), SequentialSampler(len(train), 4), side=SIDE)
    with pytest.raises(InputError, match=r"\(3, 48, 48\)") as caught:
        list(loader)
    assert str(path) in str(caught.value)


def test_every_row_draws_a_window_of_its_own_uniform_over_all_places():
    rows = list(range(5000))
    windows = draw_windows(rows, (0, 0), 10, 8)
    places = Counter((top, left) for top, left, _ in windows)
    assert set(places) == {(top, left) for top in range(3) for left in range(3)}
    # Four standard deviations of a count of 5000 / 9 are 89.
    assert all(abs(n - 5000 / 9) < 89 for n in places.values())
    assert set(draw_windows(rows[:9], (0, 0), 8, 8)) == {(0, 0, 8)}


def test_windows_depend_on_seed_epoch_and_rows_alone():
    rows, other = [4, 8, 1, 0], [4, 8, 1, 3]
    drawn = draw_windows(rows, (1, 2), 400, 256)
    torch.manual_seed(5)
    assert drawn == draw_windows(rows, (1, 2), 400, 256)
    assert len({tuple(drawn), *(tuple(draw_windows(*of, 400, 256)) for of in (
        (rows, (1, 3)), (rows, (2, 2)), (other, (1, 2))
    ))}) == 4  # fmt: skip
    sampler = SequentialSampler(4, 4)
    assert not np.array_equal(
        np.array(draw_windows([0, 1, 2, 3], (0, 0), 400, 256))[:, :2],
        np.random.default_rng([sampler.seed, sampler.epoch]).integers(145, size=(4, 2)),
    ), "not the sampler's own draws"


def test_a_batch_has_the_same_windows_on_one_process_and_on_two(data):
    sampler = make(data).sampler
    alone, *shared = (
        [request.windows for request in Requests(share, 32, SIDE)]
        for share in (sampler, Rounds(sampler, 0, 2), Rounds(sampler, 1, 2))
    )
    together = [windows for pair in zip(*shared, strict=True) for windows in pair]
    assert alone == together[: len(alone)] and len(alone) == len(sampler)


@pytest.mark.parametrize(("algorithm", "transform", "side"), [
    ("ERM", "paper", SIDE), ("ERM", "rxrx1", 32), ("ERM", "iid", 32), ("ERM", "none", 32),
    ("SimCLR", "paper", 32),  # whose views are squares of whole images
])  # fmt: skip
def test_the_paper_transform_trains_on_windows_and_all_else_on_whole_images(
    root, small_crops, tmp_path, algorithm, transform, side
):
    config = run_config(algorithm, **runs.settings(root, tmp_path, algorithm))
    setup = prepare(replace(config, data=replace(config.data, transform=transform)))
    batch = next(iter(setup.train_loader))
    assert batch.x.shape[-2:] == (side, side) and batch.cropped == (side == SIDE)


def test_a_training_batch_of_windows_is_flipped_turned_and_enlarged_but_not_cropped_again(data, small_crops):
    d, rng = DataConfig(transform="paper"), np.random.default_rng(0)
    batch = next(iter(make(data, SIDE)))
    got = method_batch(batch, d, None, torch.Generator().manual_seed(1), rng).x
    transpose, down, across = (
        draw.tolist() for draw in T.draw_paper(len(batch), torch.Generator().manual_seed(1))
    )
    for n, image in enumerate(batch.x):
        y = image.transpose(1, 2) if transpose[n] else image
        y = y.flip(1) if down[n] else y
        y = (y.flip(2) if across[n] else y).double()[None]
        y = F.interpolate(y, size=(2 * SIDE, 2 * SIDE), mode="bilinear", align_corners=False)[0]
        y = (y - y.mean((1, 2), keepdim=True)) / y.std((1, 2), keepdim=True)
        torch.testing.assert_close(got[n].double(), y, atol=1e-5, rtol=0)


def test_a_run_on_windows_is_the_same_from_files_and_from_a_pack_that_two_workers_read(
    packed_root, small_crops, monkeypatch, tmp_path
):
    runs.use_tiny_backbone(monkeypatch)
    made, cropped, left = fit_module.method_batch, [], []
    monkeypatch.setattr(
        fit_module, "method_batch", lambda batch, *args: cropped.append(batch.cropped) or made(batch, *args)
    )
    for data_format, workers in (("png", 0), ("packed", 2)):
        folder, loading = tmp_path / data_format, {"num_workers": workers}
        fit(run_config("ABRA", **runs.settings(
            packed_root, folder, n_epochs=1, data_format=data_format, loader_kwargs=loading
        )))  # fmt: skip
        left.append(runs.comparable(runs.state(folder)))
    assert runs.differences(*left) == [] and cropped and all(cropped)


@pytest.mark.parametrize(("name", "H", "W", "side"), [
    ("paper", 512, 512, 256), ("paper", 257, 257, 256), ("paper", 256, 256, None), ("paper", 300, 400, None),
    ("rxrx1", 512, 512, None), ("iid", 512, 512, None), ("none", 512, 512, None),
])  # fmt: skip
def test_square_images_larger_than_256_are_cropped_by_the_paper_transform_alone(name, H, W, side):
    assert T.crop_side(name, H, W) == side
