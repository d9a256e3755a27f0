"""Camelyon17, iWildCam and FMoW in small: what WILDS reads, what is added, what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from abra_wilds.compat.imports import torchvision_importable
from abra_wilds.config.datasets import DATASETS, OTHERS
from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.datasets.catalogue import described, load_dataset, make_grouper, split_subset
from abra_wilds.data.datasets.counts import split_rows, split_table
from abra_wilds.data.reading.images import check_images, read_image
from abra_wilds.errors import InputError
from tests.data import other_sets

torchvision_importable()  # which may need help

from torchvision import transforms  # noqa: E402

WRITERS = {
    "camelyon17": other_sets.write_camelyon17,
    "iwildcam": other_sets.write_iwildcam,
    "fmow": other_sets.write_fmow,
}


@pytest.mark.parametrize(
    ("name", "counts", "shape"),
    [
        ("camelyon17", {"train": 36, "id_val": 12, "test": 16, "val": 16}, (3, 96, 96)),
        ("iwildcam", {"train": 18, "val": 8, "test": 16, "id_val": 3, "id_test": 3}, (3, 448, 448)),
        ("fmow", {"train": 36, "id_val": 36, "id_test": 36, "val": 36, "test": 24}, (3, 32, 32)),
    ],
)
def test_the_sets_are_read_as_wilds_splits_them(others_root, name, counts, shape):
    dataset = load_dataset(name, others_root)
    assert {split: len(rows) for split, rows in split_rows(dataset).items()} == counts
    for split in counts:
        check_images(dataset, split_subset(dataset, split).indices)
    about = described(dataset, DATASETS[name].values["groupby_fields"])
    assert about["channels"] == ["red", "green", "blue"] and about["image_size"] == list(shape[1:])
    assert len(about["classes"]) == dataset.n_classes and about["digest"]
    assert read_image(dataset, len(dataset) - 1).shape == shape
    for fields in DATASETS[name].groups.values():
        assert make_grouper(dataset, fields).n_groups >= 2


def test_names_of_classes_are_those_of_the_sets(others_root):
    names = {name: load_dataset(name, others_root).class_names for name in OTHERS}
    assert names["camelyon17"] == ("normal", "tumour") and names["iwildcam"] == ("empty", "puma", "2")
    assert len(names["fmow"]) == 62 and names["fmow"][61] == "zoo"


def test_images_of_iwildcam_are_resized_as_by_wilds_transform(others_root):
    dataset = load_dataset("iwildcam", others_root, size=(64, 32))
    path = others_root / "iwildcam_v2.0" / "train" / "3_5.jpg"
    row = list(dataset._input_array).index("3_5.jpg")
    wanted = transforms.Resize((64, 32))(Image.open(path))
    np.testing.assert_array_equal(read_image(dataset, row).permute(1, 2, 0).numpy(), np.asarray(wanted))


def test_a_row_of_fmow_keeps_its_image_although_sequestered_ones_are_left_out(others_root):
    dataset = load_dataset("fmow", others_root)
    table = pd.read_csv(others_root / "fmow_v1.1" / "rgb_metadata.csv")
    assert len(dataset) == len(table) - 1
    # The sequestered row stands at 5.
    for row, number in ((4, 4), (5, 6), (200, 201)):
        path = others_root / "fmow_v1.1" / "images" / f"rgb_img_{number}.png"
        np.testing.assert_array_equal(read_image(dataset, row).permute(1, 2, 0), np.asarray(Image.open(path)))


def test_reading_fmow_leaves_pillows_limit_in_place(others_root):
    load_dataset("fmow", others_root)
    assert Image.MAX_IMAGE_PIXELS == 89478485  # of a new process


def test_the_table_of_splits_counts_what_a_set_has(others_root):
    dataset = load_dataset("camelyon17", others_root)
    lines = [line.split() for line in split_table(dataset, split_rows(dataset)).splitlines()]
    assert lines[0] == ["split", "images", "hospitals", "slides", "classes", "images", "a", "slide"]
    assert lines[1] == ["train", "36", "3", "6", "2", "6"]


def test_the_transform_imagenet_is_wilds_image_base():
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8))
    normal = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    wanted = torch.stack([normal(image.float() / 255) for image in x])
    torch.testing.assert_close(augment(x, "imagenet"), wanted)
    deep = (x.to(torch.int32) * 257).to(torch.uint16)
    torch.testing.assert_close(augment(deep, "imagenet"), wanted)


def rewrite(root, name, change):
    """A copy's table with a change."""
    table = {"fmow": "rgb_metadata.csv"}.get(name, "metadata.csv")
    path = root / f"{name}_v{load_dataset(name, root)._version}" / table
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(rows).to_csv(path, index=False)


def replaced(column, row, value):
    """A table with one other value."""

    def change(rows):
        rows.loc[row, column] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("camelyon17", replaced("tumor", 3, "2"), "column tumor .* from 0 to 1; line 5 has '2'"),
        ("camelyon17", replaced("center", 0, "9"), "more than the 5 hospitals"),
        ("camelyon17", lambda rows: rows.drop(columns="slide"), "slide"),
        ("iwildcam", replaced("y", slice(None), "1"), "no row with y 0"),
        ("iwildcam", replaced("split", 1, "dev"), "column split .* one of train, val.*line 3 has 'dev'"),
        ("fmow", replaced("category", 0, "beach"), "one of FMoW's 62 categories; line 2 has 'beach'"),
        ("fmow", replaced("timestamp", 2, "soon"), "column timestamp .* line 4 has 'soon'"),
    ],
)
def test_a_damaged_table_is_one_sentence(tmp_path, name, change, said):
    WRITERS[name](tmp_path)
    rewrite(tmp_path, name, change)
    with pytest.raises(InputError, match=said):
        load_dataset(name, tmp_path)


@pytest.mark.parametrize("name", OTHERS)
def test_a_set_that_is_not_there_is_to_be_fetched(tmp_path, name):
    with pytest.raises(InputError, match=f"there is no data set in .*{name}_v.*abra-wilds fetch {name} "):
        load_dataset(name, tmp_path)
    WRITERS[name](tmp_path)
    next(tmp_path.glob("*/RELEASE*")).unlink()
    with pytest.raises(InputError, match="holds no RELEASE_v"):
        load_dataset(name, tmp_path)
