"""`abra-wilds pack --size`: what a shrunk image is."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.reading.images import read_image
from abra_wilds.data.reading.pack import from_files, pack
from abra_wilds.data.reading.packed import INDEX
from tests.data.datasets.test_catalogue import refused
from tests.data.screens import own_screen


def lanczos(x, n):
    """A (H, H) image at n x n: the sinc of three lobes, stretched to the new grid, normalised; in float."""
    scale = len(x) / n
    W = np.zeros((n, len(x)))
    for i in range(n):
        for j in range(len(x)):
            d = (j + 0.5 - (i + 0.5) * scale) / scale
            W[i, j] = np.sinc(d) * np.sinc(d / 3) if abs(d) < 3 else 0
        W[i] /= W[i].sum()
    return np.clip(W @ x.astype(float) @ W.T, 0, 255)


@pytest.mark.parametrize(("name", "size"), [("rxrx1", 16), ("rxrx1_6ch", 16), ("rxrx1_6ch", 20)])
def test_shrunk_images_equal_a_slow_reference(name, size, sim_root, six_root, tmp_path):
    source = sim_root if name == "rxrx1" else six_root
    inner = "rxrx1_v1.0" if name == "rxrx1" else "rxrx1"
    table = pd.read_csv(source / inner / "metadata.csv")
    (tmp_path / inner).mkdir()
    (tmp_path / inner / "RELEASE_v1.0.txt").touch()
    (tmp_path / inner / "images").symlink_to(source / inner / "images")
    few = table[(table["site"] == 1) & (table["plate"] == 1)].drop_duplicates("experiment")
    few.assign(sirna_id=range(len(few))).to_csv(tmp_path / inner / "metadata.csv", index=False)
    dataset = from_files(name, tmp_path)
    folder = pack(dataset, size=size)
    small = load_dataset(name, tmp_path, split_scheme="official", packed_size=size)
    for row in range(len(dataset)):
        x, y = read_image(dataset, row).numpy(), read_image(small, row).numpy()
        assert y.shape == (len(x), size, size)
        for channel, shrunk in zip(x, y, strict=True):
            if size == 16:  # rounded once along each axis, as Pillow does
                rows = np.floor(channel.reshape(32, 16, 2).mean(2) + 0.5)
                assert np.array_equal(shrunk, np.floor(rows.reshape(16, 2, 16).mean(1) + 0.5))
            else:
                assert np.abs(shrunk - lanczos(channel, size)).max() <= 1.5
    index = json.loads((folder / INDEX).read_text())
    assert index["filter"] == ("box" if size == 16 else "lanczos") and index["shape"][1:] == [size, size]
    assert load_dataset(name, tmp_path, split_scheme="official").pack is None


@pytest.mark.parametrize("size", [4, 5, -1])
def test_a_size_that_does_not_shrink_is_refused(tmp_path, size):
    own_screen(tmp_path, {"A-1": "train", "A-2": "test"})
    what = "size is -1" if size < 0 else f"size is {size} and images are 4 x 4"
    refused(what, pack, from_files("rxrx1_6ch", tmp_path), size=size)
    assert not list((tmp_path / "rxrx1").glob("packed*"))
