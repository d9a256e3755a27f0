"""What wells hold, from a second table: joins by plate and well, and what does not match."""

import pandas as pd
import pytest

from abra_wilds.data.screens.screen import Screen
from abra_wilds.errors import InputError
from tests.data.own.own_tables import WELLS, small_rows, write_table

PLATES = ("x_000", "x_001")


def table(folder):
    """A screen whose table does not know what its wells hold."""
    return write_table(folder, small_rows(("x",)).drop(columns="Metadata_Drug"))


def write_map(folder, rows, name="map.csv", **how):
    pd.DataFrame(rows).to_csv(folder / name, index=False, **how)
    return str(folder / name)


def plain(**columns):
    """One row a plate and well."""
    return [
        {"plate": p, "well": w.replace("0", ""), "drug": d, **columns}
        for p in PLATES
        for w, d in WELLS.items()
    ]


def joined(screen, column="Metadata_drug"):
    rows = screen.sites.rows
    return dict(
        zip(zip(rows["Metadata_Plate"], rows["Metadata_Well"], strict=True), rows[column], strict=True)
    )


def refusal(path, **flags):
    with pytest.raises(InputError) as caught:
        Screen.open(path, **flags)
    return str(caught.value)


def test_a_table_with_plate_and_well_is_joined_whatever_a_well_is_called(tmp_path):
    screen = Screen.open(table(tmp_path), platemap=write_map(tmp_path, plain()))
    assert joined(screen) == {(p, w): d for p in PLATES for w, d in WELLS.items()}


def test_one_map_may_stand_for_all_plates(tmp_path):
    rows = [{"well_position": w, "drug": d} for w, d in WELLS.items()]
    screen = Screen.open(table(tmp_path), platemap=write_map(tmp_path, rows))
    assert joined(screen) == {(p, w): d for p in PLATES for w, d in WELLS.items()}


@pytest.mark.parametrize("below", ["", "platemap"])
def test_barcodes_name_the_maps_of_plates(tmp_path, below):
    maps = tmp_path / below
    maps.mkdir(exist_ok=True)
    for name in ("M1", "M2"):
        rows = [
            {"plate_map_name": name, "well_position": w, "broad_sample": f"{name}-{d}"}
            for w, d in WELLS.items()
        ]
        write_map(maps, rows, f"{name}.txt", sep="\t")
    codes = [("x_000", "M2"), ("x_001", "M1"), ("another", "M1")]
    bar = write_map(
        tmp_path, [{"Assay_Plate_Barcode": p, "Plate_Map_Name": m} for p, m in codes], "barcode_platemap.csv"
    )
    screen = Screen.open(table(tmp_path), platemap=bar)
    own = dict(codes)
    wanted = {(p, w): f"{own[p]}-{d}" for p in PLATES for w, d in WELLS.items()}
    assert joined(screen, "Metadata_broad_sample") == wanted
    (maps / "M1.txt").unlink()
    assert "map M1" in refusal(table(tmp_path), platemap=bar)


def test_a_join_that_leaves_something_over_is_refused_unless_allowed(tmp_path):
    path, rows = table(tmp_path), plain()
    short = write_map(tmp_path, rows[1:])
    said = refusal(path, platemap=short)
    assert "2 of 12 sites have no row" in said and "A01 of plate x_000" in said and "line 2" in said
    screen = Screen.open(path, platemap=short, allow_unmatched=True, label_column="Metadata_drug")
    assert joined(screen)["x_000", "A01"] == "" and "2 of 12" in screen.notes[0]
    assert "2 of 12 images have no class" in screen.dataset(labelled=False).notes[1]
    more = write_map(tmp_path, [*rows, {"plate": "x_000", "well": "H12", "drug": "a"}])
    said = refusal(path, platemap=more)
    assert "have no image" in said and "H12 of plate x_000 in line 8" in said
    assert len(Screen.open(path, platemap=more, allow_unmatched=True).sites) == 12


def test_a_map_that_is_none_or_contradicts_itself_is_refused(tmp_path):
    path, rows = table(tmp_path), plain()
    said = refusal(path, platemap=write_map(tmp_path, [*rows, {**rows[0], "well": "A01"}]))
    assert "well A01 of plate x_000 twice, in line 2 and 8" in said
    assert "no file" in refusal(path, platemap=str(tmp_path / "nothing.csv"))
    assert "no platemap" in refusal(path, platemap=write_map(tmp_path, [{"plate": "x", "drug": "a"}]))
    twice = [{"plate": "x_000", "plate_map_name": m} for m in "ab"]
    assert "plate x_000 twice" in refusal(path, platemap=write_map(tmp_path, twice))
    said = refusal(path, platemap=write_map(tmp_path, plain(Batch="y")))
    assert "column Metadata_Batch is 'x' in line 2" in said and "'y'" in said
