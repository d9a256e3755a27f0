"""What six-channel RxRx1 refuses, each in one sentence."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from abra_wilds.config.data import DataConfig
from abra_wilds.data.datasets.catalogue import load_dataset, make_grouper, split_subset
from abra_wilds.data.datasets.layouts import FOLDERS
from abra_wilds.data.datasets.rxrx1 import RxRx1SixChannel
from abra_wilds.data.reading.images import check_images, image_files, read_image
from abra_wilds.data.reading.loaders import make_eval_loader
from abra_wilds.simulate.formats import folder_of
from abra_wilds.types import InputError
from tests.data.datasets.test_catalogue import refused
from tests.data.six import small_screen


@pytest.fixture
def copied(six_root, tmp_path):
    """A copy of the screen that a test may damage, loaded."""
    return load_dataset("rxrx1_6ch", shutil.copytree(six_root, tmp_path / "copy"))


def test_each_data_set_has_its_own_split_schemes(six_root):
    assert (DataConfig().split_scheme, DataConfig(dataset="rxrx1_6ch").split_scheme) == ("official", "wilds")
    refused(
        "--split_scheme .*wilds, official, heldout .*rxrx1_6ch; got 'mixed-to-test'",
        DataConfig, dataset="rxrx1_6ch", split_scheme="mixed-to-test",
    )  # fmt: skip
    refused("--split_scheme .*official, mixed-to-test .*'wilds'", DataConfig, split_scheme="wilds")
    refused(
        "split_scheme 'mixed-to-test' .*wilds, official, heldout",
        load_dataset, "rxrx1_6ch", six_root, split_scheme="mixed-to-test",
    )  # fmt: skip


def test_an_unknown_version_is_named(six_root):
    refused("version '2.0' of rxrx1_6ch; .*1.0", load_dataset, "rxrx1_6ch", six_root, "2.0")


def test_nothing_is_downloaded(six_root):
    refused("rxrx1_6ch is not downloaded", RxRx1SixChannel, root_dir=six_root, download=True)
    refused("split_scheme 'mine'", RxRx1SixChannel, root_dir=six_root, split_scheme="mine")


def test_the_folder_is_found_under_either_name(six_root, tmp_path):
    assert folder_of("rxrx", small_screen()) in FOLDERS
    (tmp_path / "rxrx1_6ch_v1.0").symlink_to(six_root / "rxrx1")
    assert len(load_dataset("rxrx1_6ch", tmp_path)) == 192


def test_a_missing_folder_says_what_to_do_and_makes_nothing(tmp_path):
    there = tmp_path / "nowhere"
    refused(
        f"{there}/rxrx1_6ch_v1.0 or {there}/rxrx1; .*'abra-wilds fetch rxrx1_6ch {there}', "
        f".*'abra-wilds simulate {there} --layout ",
        load_dataset, "rxrx1_6ch", there,
    )  # fmt: skip
    assert not there.exists()
    (tmp_path / "rxrx1").mkdir()
    refused(f"{tmp_path}/rxrx1 .*metadata.csv .*train.csv", load_dataset, "rxrx1_6ch", tmp_path)


def test_a_missing_column_is_named(edited_six):
    refused("columns plate;", edited_six, lambda d: d.drop(columns="plate"))


def test_a_missing_stain_is_found_before_training_and_named(copied):
    check_images(copied, range(len(copied)))
    gone = image_files(copied, 7)[3]
    (copied.data_dir / gone).unlink()
    refused(f"1 of 1,152 images .*{gone}", check_images, copied, range(192))
    refused(f"{gone} cannot be read", read_image, copied, 7)


DAMAGE = {
    "16 bits": (np.zeros((32, 32), np.uint16), "uint16 and .*_w1.png is 32 x 32 pixels of uint8"),
    "colour": (np.zeros((32, 32, 3), np.uint8), "mode RGB, "),
    "palette": (Image.fromarray(np.zeros((32, 32), np.uint8)).convert("P"), "mode P, "),
    "1 bit": (np.zeros((32, 32), bool), "mode 1, "),
    "size": (np.zeros((48, 32), np.uint8), "48 x 32 .*_w1.png is 32 x 32"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_stain_unlike_the_others_is_refused_with_its_path(copied, kind):
    pixels, match = DAMAGE[kind]
    path = image_files(copied, 7)[4]
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path)
    refused(f"{path} .*{match}", read_image, copied, 7)


def test_a_damaged_stain_is_refused_with_its_path(copied):
    path = copied.data_dir / image_files(copied, 7)[5]
    path.write_bytes(path.read_bytes()[:-40])
    refused(f"{path} cannot be read", read_image, copied, 7)


def test_a_site_of_another_size_is_refused_by_the_loader(copied):
    train = split_subset(copied, "train")
    for path in image_files(copied, int(train.indices[9])):
        Image.new("L", (40, 40)).save(path)
    grouper = make_grouper(copied, ("experiment",))
    loader = make_eval_loader(train, grouper, eval_loader="standard", batch_size=16)
    with pytest.raises(InputError, match=r"_w1.png .*\(6, 40, 40\) .*\(6, 32, 32\)"):
        list(loader)
