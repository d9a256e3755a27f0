"""LoadData tables: references, roots, illumination, planes, and what is refused of them."""

import numpy as np
import pandas as pd
import pytest
import torch

from abra_wilds.data.screens.load_data import read_load_data
from abra_wilds.data.screens.screen import Screen
from abra_wilds.errors import InputError
from tests.data.own.own_tables import CHANNELS, SHARED, picture, small_rows, write_screen, write_table


def test_each_row_is_read_from_the_files_that_it_names(tmp_path):
    dataset = Screen.open(write_screen(tmp_path)).dataset(labelled=False)
    assert dataset.channels == CHANNELS and len(dataset) == len(small_rows())
    for k in (0, 7, len(dataset) - 1):
        wanted = torch.from_numpy(np.stack([picture(k, c) for c in range(2)]))
        assert torch.equal(dataset.get_input(k), wanted)
        assert str(dataset._input_array[k]).startswith("images/2020_")


def test_a_parquet_table_gives_the_same_sites_as_its_csv(tmp_path):
    table = write_screen(tmp_path)
    rows = small_rows().astype({"Metadata_Site": int})
    rows["Metadata_Dose"] = np.where(np.arange(len(rows)) % 2, 0.5, np.nan)
    rows.to_parquet(tmp_path / "other.parquet")
    one, two = Screen.open(table).sites, Screen.open(tmp_path / "other.parquet").sites
    assert (one.references == two.references).all()
    assert (two.rows[list(one.rows)].to_numpy() == one.rows.to_numpy()).all()
    assert two.rows["Metadata_Dose"].tolist()[:2] == ["", "0.5"]


def test_text_stays_text_and_separators_are_found(tmp_path):
    rows = small_rows(("001",), 1)
    rows["Metadata_Drug"] = ["NA", "1e5", "293", "TRUE", "007", "x,y"]
    table = write_screen(tmp_path, rows)
    rows.to_csv(tmp_path / "semicolons.csv", index=False, sep=";")
    for path in (table, tmp_path / "semicolons.csv"):
        found = Screen.open(path).sites.rows
        assert found["Metadata_Drug"].tolist() == rows["Metadata_Drug"].tolist()
        assert set(found["Metadata_Batch"]) == {"001"}


@pytest.mark.parametrize(
    ("path_name", "root"),
    [
        ("/old/disk/images", "/old/disk=NEW"),
        ("C:\\old\\images", "C:\\old=NEW"),
        ("//server/x/images", "//server/x/=NEW"),
    ],
)
def test_paths_of_another_machine_are_read_below_a_new_root(tmp_path, path_name, root):
    rows = small_rows()
    write_screen(tmp_path, rows)
    for name in CHANNELS:
        rows[f"PathName_Orig{name}"] = rows[f"PathName_Orig{name}"].str.replace(
            "images", path_name, regex=False
        )
    rows["PathName_OrigDNA"] = rows["PathName_OrigDNA"].str.replace(
        "/2020", "\\2020" if "\\" in path_name else "/2020"
    )
    (tmp_path / "moved").mkdir()
    table = write_table(tmp_path / "moved", rows)
    dataset = Screen.open(table, image_root=[root.replace("NEW", str(tmp_path))]).dataset(labelled=False)
    assert torch.equal(dataset.get_input(3)[1], torch.from_numpy(picture(3, 1)))
    untouched = Screen.open(table, image_root=["/old/dis=/elsewhere"]).sites.references
    assert not any("elsewhere" in text for text in untouched.reshape(-1))


def test_illumination_functions_divide_the_channel_that_names_them(tmp_path):
    rows = small_rows()
    rows["FileName_IllumER"], rows["PathName_IllumER"] = "light.npy", "light"
    table = write_screen(tmp_path, rows)
    (tmp_path / "light").mkdir()
    np.save(tmp_path / "light" / "light.npy", np.full((8, 8), 2.0))
    x = Screen.open(table).dataset(labelled=False).get_input(5)
    assert torch.equal(x[0], torch.from_numpy(picture(5, 0)))
    assert torch.equal(x[1], torch.from_numpy(np.rint(picture(5, 1) / 2).astype(np.uint8)))


def test_frames_name_planes_of_stacks(tmp_path):
    rows = small_rows(("b",), 1)
    rows["Frame_OrigER"] = "3"
    found = read_load_data(write_table(tmp_path, rows))
    assert found.references[0, 1].endswith("ER.png#plane=3") and found.references[0, 0].endswith("DNA.png")
    assert "Frame_OrigER" not in found.rows
    rows["FileName_OrigDNA"] = "a" + rows.index.astype(str) + ".tif"
    found = Screen.open(write_table(tmp_path, rows), plane="max").sites.references
    assert found[0, 0].endswith("a0.tif#plane=max") and found[0, 1].endswith("#plane=3")


def refusal(table, **flags):
    with pytest.raises(InputError) as caught:
        Screen.open(table, **flags).dataset(labelled=False)
    return str(caught.value)


def test_bad_tables_are_refused_by_line_and_channel(tmp_path):
    rows = small_rows()
    rows.loc[4, "FileName_OrigER"] = ""
    assert "line 6" in (said := refusal(write_table(tmp_path, rows))) and "channel ER" in said
    rows = small_rows().rename(columns={"FileName_OrigER": "FileName_DNA"})
    assert "two files for channel DNA" in refusal(write_table(tmp_path, rows))
    rows = small_rows()
    rows["FileName_OrigER"] = rows["FileName_OrigDNA"]
    assert "channel DNA of line 2" in (said := refusal(write_table(tmp_path, rows))) and "channel ER" in said
    rows = small_rows()
    rows.loc[3, ["FileName_OrigDNA", "PathName_OrigDNA"]] = rows.loc[
        0, ["FileName_OrigDNA", "PathName_OrigDNA"]
    ]
    assert "line 2" in (said := refusal(write_table(tmp_path, rows))) and "line 5" in said
    rows = small_rows()[["Metadata_Plate"]].assign(URL_OrigDNA="s3://bucket/a.tif")
    assert "URL_OrigDNA" in refusal(write_table(tmp_path, rows))
    assert "names no images" in refusal(write_table(tmp_path, small_rows()[["Metadata_Plate"]]))
    assert "not there" in refusal(tmp_path / "nothing.csv")
    (tmp_path / "picture.png").touch()
    assert "no table" in refusal(tmp_path / "picture.png")


def test_a_plate_name_used_twice_is_refused_with_both_lines(tmp_path):
    rows = small_rows(("x",), 2)
    rows["Metadata_Plate"] = "P1"
    said = refusal(write_table(tmp_path, rows))
    assert "plate P1 occurs twice" in said and "line 2" in said and "line 8" in said
    rows.loc[1, "Metadata_Well"] = "a1"  # the same as A01
    rows.loc[1, "Metadata_Site"] = "1"
    assert "line 2" in (said := refusal(write_table(tmp_path, rows.iloc[:6]))) and "line 3" in said
    assert len(Screen.open(write_table(tmp_path, small_rows(("x",), 2))).dataset(labelled=False)) == 12


def test_empty_plates_and_columns_that_are_not_there_are_refused(tmp_path):
    rows = small_rows()
    rows.loc[2, "Metadata_Plate"] = ""
    assert "Metadata_Plate is empty in line 4" in refusal(write_table(tmp_path, rows))
    table = write_table(tmp_path, small_rows())
    assert "--label_column got Drug" in refusal(table, label_column="Drug")
    assert "Metadata_Dates" in refusal(table, bio_batch_columns="Metadata_Dates")
    rows = small_rows().rename(columns={"Metadata_Plate": "Metadata_Barcode"})
    assert "--plate_column" in refusal(write_table(tmp_path, rows))
    assert len(Screen.open(write_table(tmp_path, rows), plate_column="Metadata_Barcode").sites) == 48


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/real is not here")
def test_the_table_of_mitocheck_is_read_as_it_is():
    table = SHARED / "mitocheck" / "load_data.csv"
    dataset = Screen.open(table).dataset(labelled=False)
    rows = pd.read_csv(table, dtype=str)
    assert len(dataset) == 3277 and dataset.channels == ("DNA",)
    names = dataset.metadata_map
    for k in (0, 1234, 3276):
        codes = dataset.metadata_array[k].tolist()
        got = [
            names[field][code] for field, code in zip(dataset.metadata_fields[1:5], codes[1:5], strict=True)
        ]
        assert (
            got == rows.loc[k, [f"Metadata_{name}" for name in ("Batch", "Plate", "Well", "Site")]].tolist()
        )
        assert dataset.get_input(k).shape == (1, 64, 64)
