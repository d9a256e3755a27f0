"""Folders of images: names of vendors and one's own pattern, planes, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from abra_wilds.data.screens.screen import Screen
from abra_wilds.errors import InputError
from tests.data.own.own_tables import SHARED, picture


def write(folder, names):
    """Images by their paths, each with pixels of its own."""
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(k, 0)).save(folder / name)


def refusal(folder, **flags):
    with pytest.raises(InputError) as caught:
        Screen.open(folder, **flags)
    return str(caught.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/real is not here")
def test_the_twelve_sites_of_lincs_are_found_and_read_row_by_row():
    screen = Screen.open(SHARED / "lincs")
    dataset, rows = screen.dataset(labelled=False), screen.sites.rows
    wanted = [
        (plate, well, site)
        for plate in ("SQ00015198", "SQ00015230", "SQ00015233")
        for well in ("A01", "J18")
        for site in ("04", "05")
    ]
    assert (
        list(rows[["Metadata_Plate", "Metadata_Well", "Metadata_Site"]].itertuples(index=False, name=None))
        == wanted
    )
    assert dataset.channels == ("1", "2", "3", "4", "5")
    for k, (plate, well, site) in enumerate(wanted):
        row, column = ord(well[0]) - ord("A") + 1, int(well[1:])
        names = [f"r{row:02}c{column:02}f{site}p01-ch{c}sk1fk1fl1.png" for c in range(1, 6)]
        files = [SHARED / "lincs" / "images" / plate / name for name in names]
        assert torch.equal(
            dataset.get_input(k), torch.from_numpy(np.stack([np.array(Image.open(f)) for f in files]))
        )


def test_plates_of_an_export_are_the_folders_above_images(tmp_path):
    write(tmp_path, [f"P{p}/Images/r03c12f02p01-ch{c}sk1fk1fl1.png" for p in (2, 10) for c in (1, 2)])
    screen = Screen.open(tmp_path, channels=["DNA=2"])
    assert screen.sites.rows["Metadata_Plate"].tolist() == ["P2", "P10"]
    assert screen.sites.rows["Metadata_Well"].tolist() == ["C12", "C12"]
    assert screen.sites.channels == ("DNA",) and "not read: 1" in screen.notes[0]
    assert torch.equal(screen.dataset(labelled=False).get_input(1), torch.from_numpy(picture(3, 0))[None])


def test_images_of_an_imagexpress_are_found_and_its_thumbnails_are_not(tmp_path):
    guid = "0A1B2C3D-1111-2222-3333-ABCDEF012345"
    names = [f"plate7/TimePoint_1/exp_B02_s{s}_w{c}{guid}.TIF" for s in (1, 2) for c in (1, 2)]
    write(tmp_path, [*names, f"plate7/TimePoint_1/exp_B02_s1_w1_thumb{guid}.TIF"])
    sites = Screen.open(tmp_path).sites
    assert sites.rows.to_numpy().tolist() == [["plate7", "B02", "1"], ["plate7", "B02", "2"]]
    assert [text.rpartition("/")[2] for text in sites.references.reshape(-1)] == [
        n.rpartition("/")[2] for n in names
    ]


def test_a_pattern_of_ones_own_makes_columns_of_its_groups(tmp_path):
    write(tmp_path, [f"b{b}/P1/{w}-{c}.png" for b in (1, 2) for w in ("A1", "A2") for c in ("dna", "er")])
    pattern = r"(?P<batch>b\d)/(?P<plate>P\d)/(?P<well>..)-(?P<channel>.+)\.png"
    sites = Screen.open(tmp_path, pattern=pattern).sites
    assert sites.channels == ("dna", "er") and len(sites) == 4
    first = {"Metadata_Plate": "P1", "Metadata_Well": "A1", "Metadata_Site": "1", "Metadata_Batch": "b1"}
    assert sites.rows.iloc[0].to_dict() == first
    flat = r"(?P<well>..)-(?P<channel>.+)\.png"
    said = refusal(tmp_path, pattern=flat)  # both batches have a plate P1
    assert "two files for channel" in said and "b1/P1" in said and "b2/P1" in said


def test_a_plane_of_several_is_chosen(tmp_path):
    write(tmp_path, [f"P/r01c01f01p{p:02}-ch1sk1fk1fl1.png" for p in (1, 2, 3)])
    assert "--plane" in refusal(tmp_path)
    dataset = Screen.open(tmp_path, plane="2").dataset(labelled=False)
    assert torch.equal(dataset.get_input(0)[0], torch.from_numpy(picture(1, 0)))
    for plane in ("9", "max"):
        assert f"--plane {plane}" in refusal(tmp_path, plane=plane)


def test_a_plane_of_stacks_is_named_where_names_of_files_say_nothing_of_it(tmp_path):
    write(tmp_path, ["P/A1_1.tif", "P/A2_1.tif"])
    pattern = r"(?P<well>..)_(?P<channel>.)\.tif"
    for plane in ("2", "max"):
        sites = Screen.open(tmp_path, pattern=pattern, plane=plane).sites
        assert all(text.endswith(f"_1.tif#plane={plane}") for text in sites.references[:, 0])
    assert "--plane" in refusal(tmp_path, pattern=pattern, plane="mean")


def test_bad_folders_and_patterns_are_refused(tmp_path):
    assert "none of its 0 files" in refusal(tmp_path)
    assert "no regular expression" in refusal(tmp_path, pattern="(")
    assert "(?P<channel>...)" in refusal(tmp_path, pattern=r"(?P<well>.+)")
    assert "(?P<well>...)" in refusal(tmp_path, pattern=r"(?P<channel>.+)")
    names = [f"P/r01c0{w}f01p01-ch{c}sk1fk1fl1.png" for w in (1, 2) for c in (1, 2)]
    write(tmp_path, names[:-1])
    assert "site 1" in (said := refusal(tmp_path)) and "channel 2" in said
    assert len(Screen.open(tmp_path, channels="1").sites) == 2
    write(tmp_path, [*names, names[0].replace("png", "tiff")])
    assert "two files for channel 1" in refusal(tmp_path)
    assert "no channel DNA" in refusal(
        tmp_path, channels="DNA", pattern=r"(?P<well>.+?)-ch(?P<channel>.).+png"
    )
