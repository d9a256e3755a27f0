"""Tables of users: names stay what they are, other dialects are read or named, lines are the file's."""

from __future__ import annotations

import codecs

import pandas as pd
import pytest

from abra_wilds.data.datasets.catalogue import class_names, load_dataset
from abra_wilds.data.datasets.controls import control_rows
from abra_wilds.data.datasets.metadata import class_texts, read_metadata
from abra_wilds.data.datasets.tables import read_table
from abra_wilds.data.reading.images import image_files, read_image
from tests.data.datasets.test_catalogue import refused
from tests.data.screens import as_competition, own_screen

# What pandas takes for missing, a number or a truth value.
NAMES = ("NA", "001", "293", "1e5", "TRUE", "None", "nan", "0x1f", "1_000", "inf", "-0", "2024-01-01")
NEEDED = ["experiment", "plate"]


@pytest.fixture
def table(tmp_path):
    """Reads a table of these bytes or this text, and gives its rows by line."""

    def read(content, needed=NEEDED, optional=()):
        path = tmp_path / "t.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        rows = read_table(path, needed, optional)
        return dict(zip(rows.index.tolist(), rows.to_numpy().tolist(), strict=True))

    return read


@pytest.mark.parametrize("name", NAMES)
def test_names_of_experiments_and_lines_are_text(tmp_path, name):
    own_screen(tmp_path, {f"{name}-1": "train", f"{name}-2": "test"})
    path = tmp_path / "rxrx1" / "metadata.csv"
    for folder in (tmp_path / "rxrx1" / "images").iterdir():
        folder.rename(folder.with_name(name) if folder.name.endswith("-1") else folder)
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows["experiment"] = rows["experiment"].replace(f"{name}-1", name)
    rows.assign(cell_type=name).to_csv(path, index=False)
    found = load_dataset("rxrx1_6ch", tmp_path, split_scheme="official")
    assert found.metadata_map["cell_type"] == [name]
    assert found.metadata_map["experiment"] == [name, f"{name}-2"]
    assert image_files(found, 0)[0].split("/")[-3] == name and read_image(found, 0).shape == (6, 4, 4)


def test_wilds_own_data_set_has_names_as_text_too(copied_root):
    folder = copied_root / "rxrx1_v1.0"
    rows = pd.read_csv(folder / "metadata.csv", dtype=str, keep_default_na=False)
    for number, (before, after) in enumerate(
        zip(rows["experiment"].unique()[:3], ("NA", "007", "1e5"), strict=True)
    ):
        rows["experiment"] = rows["experiment"].replace(before, after)
        (folder / "images" / before).rename(folder / "images" / after)
        rows.loc[rows["experiment"] == after, "cell_type"] = f"0{number}"
    rows.to_csv(folder / "metadata.csv", index=False, sep=";", encoding="utf-16")
    found = load_dataset("rxrx1", copied_root)
    assert found.metadata_map["experiment"][:3] == ["NA", "007", "1e5"]
    assert found.metadata_map["cell_type"][:3] == ["00", "01", "02"]
    assert "/images/NA/Plate1/" in image_files(found, 0)[0] and read_image(found, 0).shape == (3, 32, 32)


def test_names_of_sirnas_and_wells_of_the_competition_are_text(tmp_path):
    own_screen(tmp_path, {"NA-1": "train", "NA-2": "test"})
    path = tmp_path / "rxrx1" / "metadata.csv"
    rows = pd.read_csv(path, keep_default_na=False)
    rows.assign(sirna=rows["sirna_id"].map(["NA", "007", "TRUE"].__getitem__)).to_csv(path, index=False)
    assert class_names(load_dataset("rxrx1_6ch", tmp_path, split_scheme="official"), 3) == [
        "NA",
        "007",
        "TRUE",
    ]
    assert class_texts(path) == {0: "NA", 1: "007", 2: "TRUE"}
    (tmp_path / "rxrx1" / "images" / "NA-1").rename(tmp_path / "rxrx1" / "images" / "007")
    rows["experiment"] = rows["experiment"].replace("NA-1", "007")
    rows.to_csv(path, index=False)
    as_text = read_metadata(path)
    as_competition(tmp_path / "rxrx1")
    for name in ("train.csv", "train_controls.csv"):
        table = tmp_path / "rxrx1" / name
        table.write_text(table.read_text().replace(",7,", ",007,"))
    (tmp_path / "rxrx1" / "images").mkdir()
    found = load_dataset("rxrx1_6ch", tmp_path, split_scheme="official")
    assert found.metadata_map["experiment"] == as_text["experiment"].unique().tolist() == ["007", "NA-2"]


def test_controls_are_found_in_a_table_with_semicolons(copied_root):
    path = copied_root / "rxrx1_v1.0" / "metadata.csv"
    rows = pd.read_csv(path)
    expected = (rows["sirna_id"] == 1).to_numpy()
    rows["well_type"] = ["negative_control" if control else "treatment" for control in expected]
    rows.to_csv(path, index=False, sep=";")
    assert control_rows(load_dataset("rxrx1", copied_root)).tolist() == expected.tolist()


PLAIN = "experiment,plate,note\nA-1,1,x\nNA,002,\n"
READ = {2: ["A-1", "1"], 3: ["NA", "002"]}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_ends_of_lines_are_seen(table, separator, end):
    assert table(PLAIN.replace(",", separator).replace("\n", end)) == READ


@pytest.mark.parametrize(
    "content",
    [PLAIN.encode("utf-8-sig"), PLAIN.encode("utf-16"), codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be")],
)
def test_encodings_with_a_mark_are_read(table, content):
    assert table(content) == READ


@pytest.mark.parametrize(
    ("content", "first"),
    [
        ("# screen 7\n# by plate\n" + PLAIN, 4),
        ("sep=,\n" + PLAIN, 3),
        ("\n\n" + PLAIN, 4),
        (PLAIN.replace("note\n", "note,\n").replace("x\n", "x,\n"), 2),
        (PLAIN.replace("x\n", "x,\n"), 2),
        (PLAIN.replace("NA,002,", "NA,002"), 2),
        (PLAIN.replace(",", ", "), 2),
        (PLAIN.replace("A-1", '"A-1"'), 2),
        (PLAIN + ",,\n\n", 2),
    ],
)
def test_comments_empty_lines_and_trailing_commas_are_no_values(table, content, first):
    assert table(content) == {first: ["A-1", "1"], first + 1: ["NA", "002"]}


def test_a_comment_between_rows_keeps_the_lines_of_the_file(table):
    assert table("experiment,plate\nA-1,1\n# plate 2\nA-1,2\n") == {2: ["A-1", "1"], 4: ["A-1", "2"]}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"# only this\n", "empty"),
        (b"experiment,plate\n", "no rows"),
        (b"experiment,plate\nA-1,1,x\n", "line 2 .* 3 values .* 2 col"),
        (b"experiment,plate,plate\nA-1,1,1\n", "two columns plate"),
        (b"experiment,plates\nA-1,1\n", r"columns plate \(nearest is plates\)"),
        (b'experiment,plate\nA-1,1\nA-1,"2\n', "line 3 .*unexpected end"),
        ("experiment,plate\nA-1,1\nÄ,1\n".encode("latin-1"), "line 3 .*utf-8 .*UTF-8"),
        ("experiment,plate\nA-1,1\n".encode("utf-16-le"), "bytes of value 0, .*UTF-16"),
        (b"experiment,plate\nA-1,1\n".replace(b",", b" "), "columns experiment.*plate"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_named(table, content, match):
    assert "/t.csv" in refused(match, table, content)


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    refused(f"{tmp_path} cannot be read .*; restore the file", read_table, tmp_path, NEEDED)


@pytest.mark.parametrize("value", ["1.0", "1e0", "+1", "-1", "x", "", "1_0", "\u0661", "9" * 19, "9" * 25])
def test_a_number_that_is_none_is_named_with_its_line_and_text(tmp_path, value):
    own_screen(tmp_path, {"A-1": "train", "A-2": "test"})
    path = tmp_path / "rxrx1" / "metadata.csv"
    lines = ["# a comment", *path.read_text().splitlines()]
    cells = lines[4].split(",")
    cells[2] = value
    path.write_text("\n".join([*lines[:4], ",".join(cells), *lines[5:]]), encoding="utf-8")
    got = f"'{value}'".replace("+", r"\+") if value else "nothing"
    refused(f"column plate .*line 5 has {got}, and 1 of 12 rows", read_metadata, path)


def test_numbers_with_zeros_before_them_are_numbers(tmp_path):
    own_screen(tmp_path, {"A-1": "train", "A-2": "test"})
    path = tmp_path / "rxrx1" / "metadata.csv"
    rows = pd.read_csv(path, dtype=str)
    rows.assign(plate="0" + rows["plate"], site=rows["site"] + " ").to_csv(path, index=False)
    found = read_metadata(path)
    assert found["plate"].tolist() == [1] * 12 and found["site"].tolist() == [1, 2] * 6
