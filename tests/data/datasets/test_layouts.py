"""The layouts of a six-channel screen, each found by what lies on disk, and what is refused of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from abra_wilds.data.datasets.catalogue import data_info, load_dataset, make_grouper, split_subset
from abra_wilds.data.datasets.layouts import TABLES, find_layout
from abra_wilds.data.reading.images import check_images, image_files, read_image
from tests.data.datasets import full_metadata
from tests.data.datasets.test_catalogue import refused
from tests.data.screens import as_competition, own_screen, write_tables

MARKS = {"A-01": "train", "A-02": "train", "A-03": "test", "A-04": "test"}


def load(root, scheme=None):
    return load_dataset("rxrx1_6ch", root, split_scheme=scheme)


@pytest.fixture
def own(tmp_path):
    """The root_dir of a tiny screen."""
    own_screen(tmp_path, MARKS)
    return tmp_path


# The competition's layout


@pytest.mark.parametrize("tops", [("train", "test"), ("images", "images")])
@pytest.mark.parametrize("name", ["{}", "sirna_{}"])
def test_the_competition_s_layout_is_the_same_data_set(six, six_root, tmp_path, tops, name):
    root = Path(shutil.copytree(six_root, tmp_path / "copy"))
    as_competition(root / "rxrx1", tops, name)
    found = load(root)
    assert torch.equal(found.metadata_array, six.metadata_array)
    assert found.metadata_map == six.metadata_map
    assert np.array_equal(found.split_array, six.split_array)
    assert np.array_equal(found.controls, six.controls)
    assert found.treatments.tolist() == six.treatments.tolist() == [0, 1, 2, 3]
    check_images(found, range(len(found)))
    for row in (0, 60, 191):
        assert torch.equal(read_image(found, row), read_image(six, row))
        assert Path(image_files(found, row)[0]).parts[-4] in tops


def test_metadata_gives_the_rows_of_images_that_lie_as_in_the_competition(own):
    rows = as_competition(own / "rxrx1").iloc[::-1]
    rows.to_csv(own / "rxrx1" / "metadata.csv", index=False)
    found = load(own)
    assert image_files(found, 0)[0] == str(own / "rxrx1/test/A-04/Plate1/B04_s2_w1.png")
    assert image_files(found, 23)[0] == str(own / "rxrx1/train/A-01/Plate1/B02_s1_w1.png")
    check_images(found, range(24))


def test_the_wells_of_the_competition_have_the_sites_that_are_on_disk(tmp_path):
    own_screen(tmp_path, MARKS, sites=(1, 2, 3))
    as_competition(tmp_path / "rxrx1")
    assert [row[4] for row in load(tmp_path).metadata_array[:4].tolist()] == [1, 2, 3, 1]


def test_without_images_the_competition_s_wells_have_two_sites_of_six_stains(own):
    as_competition(own / "rxrx1")
    shutil.rmtree(own / "rxrx1" / "train")
    found = load(own)
    assert len(found) == 24 and len(found.suffixes) == 6
    for top in ("train", "images"):
        gone = own / "rxrx1" / top / "A-01/Plate1/B02_s1_w1.png"
        refused(f"72 of 144 images .*{gone}", check_images, load(own), range(24))
        (own / "rxrx1" / "images").mkdir(exist_ok=True)


def test_test_wells_without_labels_are_refused(own):
    as_competition(own / "rxrx1")
    path = own / "rxrx1" / "test.csv"
    sentence = f"{path} has no labels .*metadata.csv .*{own}/rxrx1"
    table = pd.read_csv(path)
    table.assign(sirna=table["sirna"].where(table.index > 0)).to_csv(path, index=False)
    refused(sentence, load, own)
    table.drop(columns="sirna").to_csv(path, index=False)
    refused(sentence, load, own)


def test_the_competition_s_own_tables_are_known_to_lack_labels():
    full_metadata.needed()
    refused("test.csv has no labels", load, full_metadata.WELLS.parent)


def test_a_missing_table_is_named(own):
    as_competition(own / "rxrx1")
    (own / "rxrx1" / "test_controls.csv").unlink()
    refused("test_controls.csv", load, own)


@pytest.mark.parametrize(
    ("table", "change", "match"),
    [
        ("train.csv", lambda d: d.drop(columns="sirna"), "columns sirna;"),
        ("train.csv", lambda d: d.drop(columns="well"), "columns well;"),
        ("train.csv", lambda d: d.assign(sirna="s1"), "column sirna .*line 2 has 's1', and 4 of 4"),
        ("train.csv", lambda d: d.assign(plate=0), "column plate .*at least 1; line 2"),
        ("test.csv", lambda d: d.assign(well=None), "column well .*line 2 has nothing"),
        ("test_controls.csv", lambda d: d.assign(well_type="dmso"), "column well_type .*'dmso'"),
    ],
)
def test_a_wrong_table_is_refused_with_its_path(own, table, change, match):
    as_competition(own / "rxrx1")
    path = own / "rxrx1" / table
    change(pd.read_csv(path)).to_csv(path, index=False)
    assert str(path) in refused(match, load, own)


def test_a_well_in_two_tables_is_refused(own):
    as_competition(own / "rxrx1")
    table = pd.read_csv(own / "rxrx1" / "test.csv")
    pd.concat([table, table]).to_csv(own / "rxrx1" / "test.csv", index=False)
    refused(f"{own}/rxrx1 .*A-03, plate 1, well B03, site 1", load, own)


# A screen of one's own


def test_the_root_dir_may_be_the_data_set_s_folder(own):
    assert len(load(own / "rxrx1")) == len(load(own)) == 24


@pytest.mark.parametrize("stains", [1, 3, 11])
def test_a_screen_may_have_any_number_of_stains(tmp_path, stains):
    own_screen(tmp_path, MARKS, stains=stains)
    found = load(tmp_path)
    assert found.suffixes == tuple(f"_w{number}.png" for number in range(1, stains + 1))
    x = read_image(found, 5)
    assert x.shape == (stains, 4, 4)
    for channel, path in zip(x, image_files(found, 5), strict=True):
        assert np.array_equal(channel.numpy(), np.asarray(Image.open(path)))
    train = split_subset(found, "train")
    assert data_info(found, train, make_grouper(found, ("plate",))).in_channels == stains


def test_a_stain_that_the_first_site_lacks_is_missing_and_not_forgotten(own):
    found = load(own)
    gone = Path(image_files(found, 0)[5])
    gone.unlink()
    refused(f"1 of 144 images .*{gone}", check_images, load(own), range(24))


def test_rxrx1_keeps_its_six_stains_whatever_lies_there(tmp_path):
    rows = own_screen(tmp_path, MARKS, stains=3)
    more = rows.loc[rows.index.repeat(50)].assign(plate=2, well=[f"W{k}" for k in range(1200)])
    more["sirna_id"] = np.arange(1200) % 1139
    pd.concat([rows, more]).to_csv(tmp_path / "rxrx1" / "metadata.csv", index=False)
    assert len(load(tmp_path).suffixes) == 6


def test_images_of_rxrx1_wilds_are_refused(sim_root, tmp_path):
    for root, name in ((tmp_path / "a", "rxrx1"), (tmp_path / "b", ".")):
        folder = Path(shutil.copytree(sim_root / "rxrx1_v1.0", root / name))
        plate = folder.resolve() / "images/HEPG2-01/Plate1"
        sentence = refused("WELL_sS.png, .*--dataset rxrx1", load, root)
        assert Path(sentence.split(" holds ")[0]).resolve() == plate


def test_controls_and_treatments_follow_well_type_and_else_the_classes_of_rxrx1(own):
    found = load(own)
    assert found.controls.tolist() == (found.y_array == 0).tolist() and found.treatments.tolist() == [1, 2]
    path = own / "rxrx1" / "metadata.csv"
    rows = pd.read_csv(path)
    rows.assign(well_type="treatment").to_csv(path, index=False)
    assert not load(own).controls.any() and load(own).treatments.tolist() == [0, 1, 2]
    rows.assign(well_type=rows["well_type"].where(rows["sirna_id"] != 1, "positive_control").where(
        rows.index > 4, "treatment")).to_csv(path, index=False)  # fmt: skip
    assert load(own).treatments.tolist() == [2]  # a class of any control well is a control
    rows.assign(well_type="positive_control").to_csv(path, index=False)
    assert load(own).controls.all() and load(own).treatments is None
    rows.drop(columns="well_type").to_csv(path, index=False)
    assert load(own).controls is None and load(own).treatments is None
    rows.assign(well_type="dmso").to_csv(path, index=False)
    refused("well_type of .*line 2 has 'dmso'", load, own)


# The real tables


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """The four real tables with made-up labels for the test treatments, and the one real site."""
    full_metadata.needed()
    root = tmp_path_factory.mktemp("competition")
    folder = root / "rxrx1"
    folder.mkdir()
    made = full_metadata.full_metadata().query(
        "dataset != 'train' and well_type == 'treatment' and site == 1"
    )
    made.to_csv(folder / "test.csv", index=False)
    for name in set(TABLES) - {"test.csv"}:
        (folder / name).symlink_to(full_metadata.WELLS / name)
    (folder / "test").symlink_to(full_metadata.WELLS / "images")
    return load(root, "official")


def test_the_real_tables_give_the_published_numbers(competition):
    sizes = {split: len(split_subset(competition, split)) for split in competition.split_dict}
    assert sizes == {"train": 81_224, "test": 44_286} and competition.n_classes == 1139
    assert competition.treatments.tolist() == list(range(1108))
    assert torch.equal(torch.from_numpy(competition.controls), competition.y_array >= 1108)


def test_the_real_tables_are_the_rows_of_metadata(competition):
    rows = full_metadata.full_metadata()
    assert competition.y_array.tolist() == rows["sirna_id"].tolist()
    top = np.where(rows["dataset"] == "train", "train/", "test/") + rows["experiment"]
    stems = top + "/Plate" + rows["plate"].astype(str) + "/" + rows["well"] + "_s" + rows["site"].astype(str)
    assert competition._input_array.tolist() == stems.tolist()


def test_the_real_site_loads_through_the_data_set(competition):
    row = competition._input_array.tolist().index("test/HEPG2-08/Plate1/B02_s1")
    x = read_image(competition, row)
    assert x.shape == (6, 512, 512) and x.dtype == torch.uint8
    site = full_metadata.WELLS / "images/HEPG2-08/Plate1"
    for stain, channel in enumerate(x, start=1):
        assert np.array_equal(channel.numpy(), np.asarray(Image.open(site / f"B02_s1_w{stain}.png")))
    assert int(competition.y_array[row]) == 1138


def test_a_layout_can_be_found_without_choosing_splits(own):
    write_tables(own / "rxrx1", pd.read_csv(own / "rxrx1" / "metadata.csv"))
    layout = find_layout(own)
    assert layout.folder == own / "rxrx1" and layout.table.name == "metadata.csv" and len(layout.stems) == 24
