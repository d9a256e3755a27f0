"""16 bits from files and packs to the standardised tensor, against NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from abra_wilds.data.augment.transforms import TRANSFORM_NAMES, augment, standardise
from abra_wilds.data.augment.views import make_views
from abra_wilds.data.datasets.catalogue import described, load_dataset, make_grouper, split_subset
from abra_wilds.data.datasets.validate import check_arrays, check_files
from abra_wilds.data.reading.images import image_files, read_image
from abra_wilds.data.reading.loaders import make_train_loader
from abra_wilds.data.reading.pack import from_files, pack
from abra_wilds.data.reading.packed import INDEX, Pack
from abra_wilds.data.reading.prefetch import prefetched
from abra_wilds.types import ViewPlan
from tests.data.augment.test_transforms import slow_standardise
from tests.data.datasets.test_catalogue import refused
from tests.data.screens import own_screen

SCREEN = {"A-1": "train", "A-2": "train", "A-3": "test"}


@pytest.fixture
def root(tmp_path):
    own_screen(tmp_path, SCREEN, bits=16, side=12)
    return tmp_path


def pixels(dataset, row):
    """What Pillow finds in the files of a row, (C, H, W)."""
    return np.stack([np.asarray(Image.open(path)) for path in image_files(dataset, row)])


def batches(dataset, **options):
    train = split_subset(dataset, "train")
    plates = make_grouper(dataset, ("experiment", "plate"))
    loader = make_train_loader(train, plates, train_loader="plate", batch_size=4, **options)
    yield from prefetched(loader, torch.device("cpu"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_levels_above_255_survive_to_the_standardised_tensor(root, packed, workers):
    dataset = from_files("rxrx1_6ch", root)
    if packed:
        pack(dataset)
    loaded = load_dataset("rxrx1_6ch", root, split_scheme="official")
    assert (loaded.pack is not None) == packed
    rows = split_subset(loaded, "train").indices
    seen = 0
    for host, batch in batches(loaded, num_workers=workers):
        assert host.x.dtype == batch.x.dtype == torch.uint16
        x = augment(batch.x, "none")
        for image, row in zip(x, rows[host.rows], strict=True):
            wanted = pixels(dataset, row)
            assert wanted.max() > 255 and np.abs(wanted - wanted.astype(np.uint8)).max() > 0
            assert np.abs(image.numpy() - slow_standardise(wanted).numpy()).max() < 1e-5
            seen += 1
    assert seen == 12


def deep(n=6, C=2, side=32):
    return np.random.default_rng(0).integers(0, 65536, (n, C, side, side), dtype=np.uint16)


@pytest.mark.parametrize("name", [name for name in TRANSFORM_NAMES if name != "imagenet"])
@pytest.mark.parametrize("size", [None, (24, 24)])
def test_every_transform_of_16_bits_equals_that_of_the_same_numbers_as_floats(name, size):
    x = deep(side=300 if name == "paper" else 32)
    a, b = (
        augment(y, name, torch.Generator().manual_seed(1), size)
        for y in (torch.from_numpy(x), torch.from_numpy(x.astype(np.float32)))
    )
    assert a.dtype == torch.float32 and torch.equal(a, b)


def test_views_of_16_bits_equal_those_of_the_same_numbers_as_floats():
    x, plan = deep(), ViewPlan(sizes=(0, 16), scales=((0.5, 1), (0.2, 0.5)), blur=(1.0, 0.5), jitter=0.1)
    a, b = (
        make_views(y, plan, torch.Generator().manual_seed(1))
        for y in (torch.from_numpy(x), torch.from_numpy(x.astype(np.float32)))
    )
    assert all(torch.equal(first, second) for first, second in zip(a, b, strict=True))


def test_small_contrast_on_a_bright_ground_is_not_taken_for_blank():
    x = np.full((1, 2, 64, 64), 60000, np.uint16)
    x[0, 0, :, ::2] += 1
    y = standardise(torch.from_numpy(x))
    assert np.abs(y[0, 0].numpy() - slow_standardise(x[0])[0].numpy()).max() < 0.02 and not y[0, 1].any()


def test_a_pack_keeps_the_depth_and_one_of_8_bits_says_nothing_of_it(root, tmp_path):
    dataset = from_files("rxrx1_6ch", root)
    folder = pack(dataset)
    index = json.loads((folder / INDEX).read_text())
    assert index["dtype"] == "uint16" and all(file["dtype"] == "uint16" for file in index["files"])
    assert np.load(folder / "A-1_plate1.npy", mmap_mode="r").dtype == "<u2"
    found = Pack.open(folder)
    for row, stem in enumerate(dataset._input_array):
        assert np.array_equal(found.read(stem).numpy(), pixels(dataset, row))
        assert np.array_equal(found.read(stem, (1, 2, 5)).numpy(), pixels(dataset, row)[:, 1:6, 2:7])
    assert described(dataset, ["plate"])["bit_depth"] == 16
    own_screen(tmp_path / "8", SCREEN)
    shallow = from_files("rxrx1_6ch", tmp_path / "8")
    written = json.loads((pack(shallow) / INDEX).read_text())
    assert "dtype" not in written and not any("dtype" in file for file in written["files"])
    assert described(shallow, ["plate"])["bit_depth"] == 8


@pytest.mark.parametrize("size", [4, 5])
def test_shrunk_16_bits_are_means_or_within_a_level_of_the_filter_in_floats(root, size):
    dataset = from_files("rxrx1_6ch", root)
    pack(dataset, size=size)
    small = load_dataset("rxrx1_6ch", root, split_scheme="official", packed_size=size)
    for row in range(0, len(dataset), 5):
        x, y = pixels(dataset, row).astype(np.float64), read_image(small, row)
        assert y.dtype == torch.uint16
        if size == 4:
            assert np.abs(y.numpy() - x.reshape(6, 4, 3, 4, 3).mean((2, 4))).max() <= 0.51
        else:
            kind = Image.Resampling.LANCZOS
            floats = [np.asarray(Image.fromarray(c.astype(np.float32)).resize((5, 5), kind)) for c in x]
            assert np.abs(y.numpy() - np.clip(floats, 0, 65535)).max() <= 0.51


def test_one_image_of_8_bits_among_16_is_refused_wherever_it_is_met(root):
    dataset = from_files("rxrx1_6ch", root)
    odd = image_files(dataset, 1)
    for path in odd:
        Image.fromarray((np.asarray(Image.open(path)) >> 8).astype(np.uint8)).save(path)
    refused(f"{odd[0]} has 8 bits a pixel and .* has 16; all images", list, batches(dataset))
    refused(f"{odd[0]} has 8 bits a pixel and the first image has 16", pack, dataset)
    found = check_files(dataset, None, 1, "")
    assert found.problems == [f"{odd[0]} has 8 bits a pixel, others have 16; restore or convert it"]


def test_validation_reads_16_bits_of_files_and_pack(root):
    dataset = from_files("rxrx1_6ch", root)
    folder = pack(dataset)
    assert not check_files(dataset, Pack.open(folder), 1, "").problems
    assert not check_arrays(Pack.open(folder), 1, "")
    array, path = folder / "A-2_plate1.npy", image_files(dataset, 3)[2]
    data = bytearray(array.read_bytes())
    data[-1] ^= 1
    array.write_bytes(data)
    (problem,) = check_arrays(Pack.open(folder), 1, "")
    assert f"{array} has changed where images/A-2" in problem
    Image.fromarray(np.full((12, 12), 300, np.uint16)).save(path)
    found = check_files(dataset, Pack.open(folder), 1, "")
    assert (
        found.blank == {3: 1} and f"{image_files(dataset, 3)[0]} is not what was packed" in found.problems[0]
    )
