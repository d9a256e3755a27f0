"""Planes of OME-Zarr fields, of NGFF 0.4 and 0.5."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from abra_wilds.data.reading.planes import read_plane
from tests.data.datasets.test_catalogue import refused

zarr = pytest.importorskip("zarr")


def write_field(path, x, axes, version="0.4"):
    """An image of an OME-Zarr, of one resolution."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=x, chunks=(1,) * (x.ndim - 2) + x.shape[-2:])
    image = {"axes": [{"name": axis} for axis in axes], "datasets": [{"path": "0"}]}
    attributes = {"multiscales": [image]}
    group.attrs.update(attributes if version == "0.4" else {"ome": {"version": version, **attributes}})


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_planes_of_fields_are_read_by_their_axes(tmp_path, version):
    x = np.random.default_rng(0).integers(0, 65536, (2, 3, 4, 6, 5)).astype(np.uint16)
    field = tmp_path / "plate.zarr" / "B" / "03" / "0"
    write_field(field, x, "tczyx", version)
    assert np.array_equal(read_plane(f"{field}#c=2&z=1&t=1"), x[1, 2, 1])
    assert np.array_equal(read_plane(f"{field}#channel=0&plane=max&t=0"), x[0, 0].max(0))
    refused("holds 4 planes; name one, as in .*#z=0, or the brightest", read_plane, f"{field}#c=0&t=0")
    refused("asks for c=3 of 3 channels", read_plane, f"{field}#c=3&t=0&z=0")
    write_field(field, x[0, :, :1], "czyx", version)
    plane = read_plane(f"{field}#c=1")
    assert plane.dtype == np.uint16 and np.array_equal(plane, x[0, 1, 0])
    zarr.open_group(str(tmp_path / "b.zarr"), mode="w")
    refused("b.zarr is no image of an OME-Zarr", read_plane, f"{tmp_path / 'b.zarr'}#c=0")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_chunk_that_was_cut_off_is_refused(tmp_path, version):
    x = np.random.default_rng(0).integers(0, 4000, (32, 32)).astype(np.uint16)
    write_field(tmp_path / "a.zarr", x, "yx", version)
    (chunk,) = (tmp_path / "a.zarr" / "0").rglob("0.0" if version == "0.4" else "c/0/0")
    body = chunk.read_bytes()
    for length in (0, 8, 20, len(body) // 2, len(body) - 1):
        chunk.write_bytes(body[:length])
        refused("a.zarr cannot be read", read_plane, str(tmp_path / "a.zarr"))
    chunk.write_bytes(body)
    assert np.array_equal(read_plane(str(tmp_path / "a.zarr")), x)


class Bomb:
    """Pickled, it is a call that touches a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["compressor", "filters"])
def test_chunks_that_are_python_objects_are_not_decoded(tmp_path, key):
    field, mark = tmp_path / "a.zarr", tmp_path / "touched"
    write_field(field, np.zeros((4, 4), np.uint16), "yx")
    table = json.loads((field / "0" / ".zarray").read_text())
    pickled = {"id": "pickle", "protocol": 5}
    table |= {"compressor": None, "filters": None, key: pickled if key == "compressor" else [pickled]}
    (field / "0" / ".zarray").write_text(json.dumps(table))
    (field / "0" / "0.0").write_bytes(pickle.dumps(Bomb(mark)))
    refused("a.zarr cannot be read", read_plane, str(field))
    assert not mark.exists()
