"""Reading packs: the same pixels as the files, and which pack is read."""

from __future__ import annotations

import json
import pickle
import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from abra_wilds.data.datasets.catalogue import load_dataset, make_grouper, split_subset
from abra_wilds.data.reading.images import check_images, image_files, image_path, read_image
from abra_wilds.data.reading.loaders import make_eval_loader
from abra_wilds.data.reading.pack import from_files, pack
from abra_wilds.data.reading.packed import FORMAT, INDEX, Pack
from tests import runs
from tests.data.datasets.test_catalogue import refused
from tests.data.screens import own_screen

NAMES = ("rxrx1", "rxrx1_6ch")
EXPERIMENTS = ("HEPG2-01", "HEPG2-02", "HEPG2-03")


def six_of_three_experiments(six_root, folder):
    """A root_dir with a copy of three experiments of the small six-channel screen."""
    table = pd.read_csv(six_root / "rxrx1" / "metadata.csv")
    for experiment in EXPERIMENTS:
        shutil.copytree(six_root / "rxrx1" / "images" / experiment, folder / "rxrx1" / "images" / experiment)
    kept = table[table["experiment"].isin(EXPERIMENTS)]
    kept.to_csv(folder / "rxrx1" / "metadata.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def roots(sim_root, six_root, tmp_path_factory):
    """Data set -> its packed root_dir; never written to."""
    made = {
        "rxrx1": runs.small_root(sim_root, tmp_path_factory.mktemp("three")),
        "rxrx1_6ch": six_of_three_experiments(six_root, tmp_path_factory.mktemp("six")),
    }
    for name, root in made.items():
        pack(from_files(name, root))
    return made


@pytest.fixture
def own(roots, tmp_path):
    """A packed six-channel root_dir that a test may damage."""
    return Path(shutil.copytree(roots["rxrx1_6ch"], tmp_path / "own"))


def load(root, data_format=None, packed_size=0, scheme="official"):
    return load_dataset(
        "rxrx1_6ch", root, split_scheme=scheme, data_format=data_format, packed_size=packed_size
    )


@pytest.mark.parametrize("name", NAMES)
def test_pack_and_files_give_the_same_bytes_of_every_image_and_window(roots, name):
    files, packed = (load_dataset(name, roots[name], split_scheme="official", data_format=f) for f in
                     ("png", "packed"))  # fmt: skip
    assert files.pack is None and packed.pack.shape == (3 if name == "rxrx1" else 6, 32, 32)
    rng = np.random.default_rng(0)
    for row in range(len(files)):
        x, y = read_image(files, row), read_image(packed, row)
        assert torch.equal(x, y) and y.dtype == torch.uint8 and y.is_contiguous()
        side = int(rng.integers(1, 33))
        top, left = rng.integers(33 - side, size=2).tolist()
        expected = x.numpy()[:, top : top + side, left : left + side]
        for data in (files, packed):
            window = read_image(data, row, (top, left, side))
            assert np.array_equal(window.numpy(), expected) and window.is_contiguous()


@pytest.mark.parametrize("name", NAMES)
def test_loaders_give_the_same_batches_from_pack_and_files_with_any_workers(roots, name):
    epochs = []
    for data_format, workers in (("png", 0), ("packed", 0), ("packed", 2)):
        data = load_dataset(name, roots[name], split_scheme="official", data_format=data_format)
        grouper = make_grouper(data, ["experiment"])
        loader = make_eval_loader(split_subset(data, "test"), grouper, eval_loader="standard", batch_size=16,
                                  num_workers=workers)  # fmt: skip
        epochs.append([(batch.x, batch.target.y) for batch in loader])
    assert runs.differences(epochs[0], epochs[1]) == runs.differences(epochs[0], epochs[2]) == []


def test_a_read_does_not_change_the_pack_and_a_copy_outlives_it(own):
    data = load(own)
    first = read_image(data, 0)
    kept = first.clone()
    read_image(data, 0).zero_()
    assert torch.equal(read_image(data, 0), kept)
    path = data.pack.folder / "HEPG2-01_plate1.npy"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(first, kept)


def test_numpy_alone_opens_a_plate(roots):
    data = load(roots["rxrx1_6ch"])
    array = np.load(data.pack.folder / "HEPG2-01_plate2.npy", mmap_mode="r")
    assert array.shape == (6, 6, 32, 32) and array.dtype == np.uint8
    index = json.loads((data.pack.folder / INDEX).read_text())
    (file,) = (file for file in index["files"] if file["name"] == "HEPG2-01_plate2.npy")
    for image, stem in zip(array, file["stems"], strict=True):
        for channel, grey in enumerate(image, start=1):
            path = data.data_dir / f"{stem}_w{channel}.png"
            assert np.array_equal(grey, np.asarray(Image.open(path)))


def test_rows_in_another_order_and_other_splits_find_their_images(own):
    before = load(own)
    images = {str(before._input_array[row]): read_image(before, row) for row in range(len(before))}
    path = own / "rxrx1" / "metadata.csv"
    pd.read_csv(path).sample(frac=1, random_state=1).to_csv(path, index=False)
    other = load(own, "packed", scheme="heldout")
    assert list(other._input_array) != list(before._input_array)
    assert all(
        torch.equal(read_image(other, row), images[str(s)]) for row, s in enumerate(other._input_array)
    )


def test_a_pickled_pack_carries_names_and_no_pixels(roots):
    data = load(roots["rxrx1_6ch"])
    x = read_image(data, 3)
    there = pickle.loads(pickle.dumps(data.pack))
    assert data.pack._maps and not there._maps
    assert torch.equal(there.read(str(data._input_array[3])), x)
    assert len(pickle.dumps(data.pack)) < 200 * len(data.pack)


def test_checksums_on_demand_tell_a_flipped_bit(own):
    def changed(data):
        stems = map(str, data._input_array)
        return [s for s in stems if zlib.crc32(data.pack.read(s).numpy().data) != data.pack.crc32(s)]

    data = load(own)
    assert changed(data) == []
    path = data.pack.folder / "HEPG2-03_plate4.npy"
    content = bytearray(path.read_bytes())
    content[128 + 2 * 6 * 32 * 32 + 5] ^= 1
    path.write_bytes(content)
    hurt = data.pack.images_of(11)[0][2]
    assert changed(load(own)) == [hurt]


# Which pack is read


def test_the_pack_is_read_where_it_is_there_unless_files_are_asked_for(roots, six_root):
    assert load(roots["rxrx1_6ch"]).pack is not None and load(roots["rxrx1_6ch"], "packed").pack is not None
    assert load(roots["rxrx1_6ch"], "png").pack is None and load(six_root).pack is None


def test_a_missing_pack_is_refused_with_the_command_that_makes_it(six_root):
    command = f"abra-wilds pack {six_root} --dataset rxrx1_6ch"
    refused(
        f"{six_root}/rxrx1/packed, .*unfinished one; run '{command}' .*--data_format png",
        load, six_root, "packed",
    )  # fmt: skip
    for data_format in (None, "packed"):
        refused(f"packed_16, .*; run '{command} --size 16' or leave out --packed_size", load, six_root,
                data_format, 16)  # fmt: skip


def test_flags_that_contradict_each_other_are_refused(six_root):
    refused("data_format 'zip'; .*png, packed", load, six_root, "zip")
    refused("packed_size is 16 with data_format png", load, six_root, "png", 16)
    refused("packed_size is -1 ", load, six_root, None, -1)


@pytest.mark.parametrize("folders", [True, False])
def test_a_pack_serves_alone_once_the_image_files_are_deleted(own, roots, folders):
    for plate in sorted((own / "rxrx1" / "images").glob("*/*")):
        for path in plate.iterdir():
            path.unlink()
    if folders:
        shutil.rmtree(own / "rxrx1" / "images")
    alone, files = load(own), load(roots["rxrx1_6ch"], "png")
    check_images(alone, range(len(alone)))
    assert all(torch.equal(read_image(alone, row), read_image(files, row)) for row in range(len(files)))


def test_a_screen_of_two_stains_is_read_from_its_pack_alone(tmp_path):
    own_screen(tmp_path, {"A-1": "train", "A-2": "test"}, stains=2)
    files = from_files("rxrx1_6ch", tmp_path)
    x = [read_image(files, row) for row in range(len(files))]
    pack(files)
    shutil.rmtree(tmp_path / "rxrx1" / "images")
    alone = load(tmp_path, "packed")
    assert x[0].shape == (2, 4, 4) and all(torch.equal(read_image(alone, k), x[k]) for k in range(len(x)))


def test_a_pack_that_lacks_an_image_is_refused(own):
    path = own / "rxrx1" / "metadata.csv"
    table = pd.read_csv(path)
    table.loc[5, "well"] = "Z99"
    table.to_csv(path, index=False)
    stem = "images/HEPG2-01/Plate1/Z99_s2"
    refused(f"packed lacks 1 of 72 images, first {stem}", load, own, "packed")
    data = load(own, "png")
    data.pack = Pack.open(own / "rxrx1" / "packed")
    refused(f"1 of 72 images .*{stem}", check_images, data, range(72))
    refused(f"{stem} is not in the pack", read_image, data, 5)


def change_index(**changes):
    def change(folder):
        index = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps(index | changes))

    return change


def cut_short(folder):
    with (folder / "HEPG2-01_plate3.npy").open("r+b") as file:
        file.truncate(1000)


NO_INDEX = "index.json "
BROKEN = {
    "another version": (change_index(format=FORMAT + 1), f"format {FORMAT + 1}, .* {FORMAT};"),
    "no table": (lambda folder: (folder / INDEX).write_text("[1]"), NO_INDEX),
    "half a table": (lambda folder: (folder / INDEX).write_text('{"format"'), NO_INDEX),
    "other channels": (change_index(suffixes=["_w1.png"]), "packed has 1 channels and the files 6"),
    "file cut short": (cut_short, "HEPG2-01_plate3.npy has 1,000 bytes, .*36,992"),
    "file gone": (
        lambda folder: (folder / "HEPG2-01_plate3.npy").unlink(),
        "HEPG2-01_plate3.npy has 0 bytes",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pack_is_refused_and_never_read_by_default(own, name):
    change, match = BROKEN[name]
    change(own / "rxrx1" / "packed")
    refused(match, load, own, "packed")
    with pytest.warns(UserWarning, match=match):
        assert load(own).pack is None


def test_a_file_that_is_no_array_is_named(own):
    data = load(own)
    path = data.pack.folder / "HEPG2-01_plate1.npy"
    path.write_bytes(bytes(path.stat().st_size))
    refused(f"{path} cannot be mapped", read_image, data, 0)


@pytest.mark.parametrize("window", [(0, 0, 33), (1, 0, 32), (0, 1, 32), (-1, 0, 8), (0, -1, 8), (0, 0, 0)])
@pytest.mark.parametrize("data_format", ["png", "packed"])
def test_a_window_that_leaves_the_image_is_refused(roots, data_format, window):
    data = load(roots["rxrx1_6ch"], data_format)
    name = image_path(data, 0) if data_format == "png" else data._input_array[0]
    top, left, side = window
    where = f"{side} x {side} .*row {top}, column {left} .*{name}"
    refused(where, read_image, data, 0, window)


def test_a_damaged_file_is_named_with_a_window_too(own):
    data = load(own, "png")
    path = Path(image_files(data, 0)[2])
    path.write_bytes(path.read_bytes()[:100])
    refused(f"{path} cannot be read", read_image, data, 0, (0, 0, 8))
