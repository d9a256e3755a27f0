"""Indexes of Harmony beside images of an Opera Phenix: names of channels and plates, what is refused."""

from __future__ import annotations

import pytest
from PIL import Image

from abra_wilds.data.screens.harmony import FILES, read_index
from abra_wilds.data.screens.screen import Screen
from abra_wilds.errors import InputError
from tests.data.own.own_tables import picture

HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'
V5 = "http://www.perkinelmer.com/PEHH/HarmonyV5"
STAINS = {"1": "HOECHST 33342", "2": "Alexa 488"}


def images_of(channels):
    """Every image says its channel, as versions 4 and 5 write it."""
    return "".join(
        f"<Image Version='1'><id>0304K1F1P1R{number}</id><State>Ok</State><FieldID>1</FieldID>"
        f"<ChannelID>{number}</ChannelID><FlimID>1</FlimID><ChannelName>{name}</ChannelName></Image>"
        for number, name in channels.items()
    )


def maps_of(channels):
    """A map says the channels, as versions 6 and 7 write it; the first maps say other things."""
    entries = "".join(
        f"<Entry ChannelID='{number}'><ChannelName>{name}</ChannelName><ImageSizeX>4</ImageSizeX></Entry>"
        for number, name in channels.items()
    )
    other = "<Map><Entry ChannelID='1'><FlatfieldProfile>{ChannelName: x}</FlatfieldProfile></Entry></Map>"
    image = "<Image><id>a</id><ChannelID>1</ChannelID></Image>"
    return f"<Maps>{other}<Map>{entries}</Map></Maps><Images>{image}</Images>"


def write_index(folder, plate, channels, body=images_of, name=FILES[0]):
    folder.mkdir(parents=True, exist_ok=True)
    known = f"<Plates><Plate><PlateID>{plate}</PlateID><Name>other</Name><Well id='0304'/></Plate></Plates>"
    root = f'<EvaluationInputData Version="1" xmlns="{V5}"><User>u</User>{known}{body(channels)}'
    (folder / name).write_text(f"{HEAD}{root}</EvaluationInputData>", encoding="utf-8")


def write(folder, *places):
    for k, place in enumerate(places):
        for channel in (1, 2):
            path = folder / place / "Images" / f"r03c04f01p01-ch{channel}sk1fk1fl1.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(10 * k + channel, 0)).save(path)


def refusal(folder, **flags):
    with pytest.raises(InputError) as caught:
        Screen.open(folder, **flags)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("body", [images_of, maps_of])
def test_channels_and_the_plate_have_the_names_of_the_index(tmp_path, body, name):
    write(tmp_path, "BR7__2026-01-01T00_00_00-Measurement 1")
    write_index(
        next(tmp_path.iterdir()) / "Images", "BR7", {"2": "Alexa &amp; 488", "1": "HOECHST 33342"}, body, name
    )
    sites = Screen.open(tmp_path).sites
    assert sites.channels == ("HOECHST 33342", "Alexa & 488")
    assert sites.rows["Metadata_Plate"].tolist() == ["BR7"]
    assert [text[-16:-13] for text in sites.references[0]] == ["ch1", "ch2"]


def test_settings_go_by_names_or_by_numbers(tmp_path):
    write(tmp_path, "P")
    write_index(tmp_path / "P" / "Images", "P", STAINS)
    for own in ("DNA=1", "DNA=HOECHST 33342"):
        screen = Screen.open(tmp_path, channels=[own])
        assert screen.sites.channels == ("DNA",) and screen.sites.references[0, 0].count("-ch1sk")
        assert screen.notes == ("channels of the screen that are not read: Alexa 488",)
    assert "it has HOECHST 33342, Alexa 488" in refusal(tmp_path, channels=["DNA=3"])


def test_plates_with_other_numbers_are_read_by_name_and_with_other_names_refused(tmp_path):
    write(tmp_path, "P1", "P2")
    write_index(tmp_path / "P1" / "Images", "P1", STAINS)
    write_index(tmp_path / "P2" / "Images", "P2", {"2": STAINS["1"], "1": STAINS["2"]})
    sites = Screen.open(tmp_path).sites
    assert sites.channels == tuple(STAINS.values())
    assert [["-ch1" in text for text in row] for row in sites.references] == [[True, False], [False, True]]
    assert "no channel 1" in refusal(tmp_path, channels=["DNA=1"])  # which is another on each plate
    write_index(tmp_path / "P2" / "Images", "P2", {"1": "Hoechst", "2": "Alexa 488"})
    said = refusal(tmp_path)
    assert "P1" in said and "P2" in said and "Hoechst, Alexa 488" in said and "--pattern" in said
    own = r"r(?P<row>\d+)c(?P<col>\d+)f(?P<site>\d+)p\d+-ch(?P<channel>\d+).*\.png"
    assert Screen.open(tmp_path, pattern=own).sites.channels == ("1", "2")


def test_what_an_index_does_not_tell_apart_goes_by_folder_and_number(tmp_path):
    write(tmp_path, "first", "second")
    for place in ("first", "second"):
        write_index(tmp_path / place / "Images", "BR7", {"1": "Brightfield", "2": "Brightfield"})
    sites = Screen.open(tmp_path).sites
    assert sites.channels == ("1", "2") and sites.rows["Metadata_Plate"].tolist() == ["first", "second"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><a><ChannelName>&b;</ChannelName></a>', "it has a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "it has a document type"),
        ("<a><Image>", "no element found"),
        ("<a>" * 100, "nested too deeply"),
        ("", "no element found"),
        ("<a>&b;</a>", "undefined entity"),
    ],
)
def test_an_index_that_is_none_or_could_hold_anything_is_refused(tmp_path, text, reason):
    write(tmp_path, "P")
    (tmp_path / "P" / "Images" / "Index.idx.xml").write_text(HEAD + text)
    said = refusal(tmp_path)
    assert "Index.idx.xml" in said and reason in said and "go by number" in said


def test_a_folder_without_an_index_has_none(tmp_path):
    assert read_index(tmp_path) is None
    write_index(tmp_path, "P", {"01": "DNA"})
    found = read_index(tmp_path)
    assert (found.plate, found.channels) == ("P", {"1": "DNA"}) and found.name_of("2") == "2"
