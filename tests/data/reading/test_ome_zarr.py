"""OME-Zarr plates as sites: what their attributes list, and what they must."""

from __future__ import annotations

import numpy as np
import pytest

from abra_wilds.data.reading.planes import read_plane
from abra_wilds.data.screens.ome_zarr import COLUMNS, find_plates, read_plates
from tests.data.datasets.test_catalogue import refused
from tests.data.reading.test_planes_zarr import write_field

zarr = pytest.importorskip("zarr")
WELLS = ("A/1", "C/12")


def tell(path, version, **attributes):
    """Write attributes of a group where NGFF of a version has them."""
    group = zarr.open_group(str(path), mode="a", zarr_format=2 if version == "0.4" else 3)
    held = dict(group.attrs).get("ome", {})
    group.attrs.update(attributes if version == "0.4" else {"ome": {**held, **attributes}})


def write_plate(path, version="0.4", labels=("DNA", "ER"), axes="czyx", depth=1):
    """A plate of two wells with two fields each; returns its arrays by WELL/FIELD."""
    shape = {"c": len(labels), "z": depth, "y": 5, "x": 4}
    found = {}
    tell(path, version, plate={"wells": [{"path": well} for well in WELLS]})
    for k, well in enumerate(WELLS):
        for field in ("0", "1"):
            x = np.random.default_rng([k, int(field)]).integers(0, 65536, [shape[axis] for axis in axes])
            found[f"{well}/{field}"] = x.astype(np.uint16)
            write_field(path / well / field, found[f"{well}/{field}"], axes, version)
            shown = [{"label": label} if label else {} for label in labels]
            tell(path / well / field, version, omero={"channels": shown})
        tell(path / well, version, well={"images": [{"path": "0"}, {"path": "1", "acquisition": 1}]})
    return found


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_lists_wells_fields_and_channels(tmp_path, version):
    arrays = write_plate(tmp_path / "p7.ome.zarr", version)
    sites = read_plates(tmp_path / "p7.ome.zarr")
    assert sites.channels == ("DNA", "ER") and sites.illumination is None
    assert sites.rows.to_numpy().tolist() == [
        ["p7", "A01", "0"], ["p7", "A01", "1"], ["p7", "C12", "0"], ["p7", "C12", "1"]
    ]  # fmt: skip
    assert list(sites.rows) == list(COLUMNS)
    for own, x in zip(sites.references.tolist(), arrays.values(), strict=True):
        assert all(np.array_equal(read_plane(text), x[c, 0]) for c, text in enumerate(own))


def test_a_folder_of_plates_is_one_screen(tmp_path):
    for name in ("b", "a"):
        write_plate(tmp_path / f"{name}.zarr")
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in find_plates(tmp_path)] == ["a.zarr", "b.zarr"]
    sites = read_plates(tmp_path)
    assert len(sites) == 8 and sites.rows["Metadata_Plate"].tolist() == ["a"] * 4 + ["b"] * 4
    write_plate(tmp_path / "c.zarr", labels=("DNA", "RNA"))
    refused("c.zarr has the channels DNA, RNA and .*a.zarr has DNA, ER", read_plates, tmp_path)


def test_stacks_are_read_at_the_plane_that_is_asked_for(tmp_path):
    arrays = write_plate(tmp_path / "a.zarr", depth=3)
    for plane, pick in {"2": lambda x: x[:, 2], "max": lambda x: x.max(1)}.items():
        sites = read_plates(tmp_path, plane)
        for own, x in zip(sites.references.tolist(), arrays.values(), strict=True):
            assert np.array_equal(np.stack([read_plane(text) for text in own]), pick(x))


def test_channels_without_labels_of_their_own_have_numbers(tmp_path):
    for k, labels in enumerate((("DNA", ""), ("DNA", "DNA"), ("DNA",) * 3)):
        write_plate(tmp_path / f"{k}.zarr", labels=labels)
        found = read_plates(tmp_path / f"{k}.zarr").channels
        assert found == tuple(str(c + 1) for c in range(len(labels)))
    plane = write_plate(tmp_path / "plain.zarr", axes="yx", labels=("DNA",))
    sites = read_plates(tmp_path / "plain.zarr")
    assert sites.channels == ("DNA",)
    assert np.array_equal(read_plane(sites.references[0, 0]), plane["A/1/0"])


def test_plates_that_cannot_be_used_are_refused(tmp_path):
    refused("holds no plate of an OME-Zarr", read_plates, tmp_path)
    plate = tmp_path / "a.zarr"
    write_plate(plate)
    (plate / "A/1/.zattrs").write_text("{}")
    refused("A/1 does not list its images, as a well of NGFF does", read_plates, tmp_path)
    (plate / "A/1/.zattrs").write_text("{")
    refused("A/1 cannot be read", read_plates, tmp_path)
    tell(plate, "0.4", plate={"wells": [{"path": "H/9"}]})
    refused("H/9 cannot be read", read_plates, tmp_path)
    tell(plate, "0.4", plate={"wells": "all"})
    refused("a.zarr does not list its wells, as a plate of NGFF does", read_plates, tmp_path)
