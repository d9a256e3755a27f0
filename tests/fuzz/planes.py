"""Images, references and OME-Zarr plates of screens of one's own: inputs that are nearly right."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from hypothesis import strategies as st
from PIL import Image

from abra_wilds.data.reading.planes import read_plane, read_site
from abra_wilds.data.screens.ome_zarr import read_plates
from tests.fuzz.inputs import changed, damaged

STACK = np.arange(3 * 6 * 5, dtype=np.uint16).reshape(3, 6, 5)
MORE = st.sampled_from(
    ["", "#plane=0", "#plane=max", "#channel=1", "#c=0&z=1", "#t=1", "#scale=2", "#scale=x", "#z=99"]
)
PLATE = {
    "": {"plate": {"wells": [{"path": "A/1"}]}},
    "A/1": {"well": {"images": [{"path": "0"}]}},
    "A/1/0": {
        "multiscales": [{"axes": [{"name": a} for a in "cyx"], "datasets": [{"path": "0"}]}],
        "omero": {"channels": [{"label": "DNA"}, {"label": "ER"}]},
    },
}
ARRAY = {
    "zarr_format": 2,
    "shape": [2, 6, 5],
    "chunks": [2, 6, 5],
    "dtype": "<u2",
    "compressor": None,
    "filters": None,
    "fill_value": 0,
    "order": "C",
}


def tiffs() -> list[bytes]:
    """A plane, a stack of planes and an OME-TIFF of channels."""
    found = []
    for x, options in (
        (STACK[0], {}),
        (STACK, {"compression": "zlib"}),
        (STACK, {"metadata": {"axes": "CYX"}, "ome": True}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, x, photometric="minisblack", **options)
        found.append(file.getvalue())
    return found


def png() -> bytes:
    """A plane of 16 bits."""
    file = io.BytesIO()
    Image.fromarray(STACK[0]).save(file, "PNG")
    return file.getvalue()


def run_plane(given: tuple[bytes, str, str], folder: Path) -> None:
    """A file of an ending, and what follows its path."""
    body, end, more = given
    path = folder / f"a{end}"
    path.write_bytes(body)
    x = read_site([f"{path}{more}"])
    assert x.dtype.itemsize <= 2 and x.dim() == 3


def run_plate(given: tuple[dict[str, Any], dict[str, Any]], folder: Path) -> None:
    """Attributes of a plate's groups, and what its array says of itself."""
    groups, array = given
    for name, attributes in groups.items():
        group = folder / "p.zarr" / name
        group.mkdir(parents=True, exist_ok=True)
        (group / ".zgroup").write_text('{"zarr_format": 2}')
        (group / ".zattrs").write_bytes(json.dumps(attributes).encode("utf-8", "surrogatepass"))
    (folder / "p.zarr/A/1/0/0").mkdir(exist_ok=True, parents=True)
    (folder / "p.zarr/A/1/0/0/.zarray").write_bytes(json.dumps(array).encode("utf-8", "surrogatepass"))
    (folder / "p.zarr/A/1/0/0/0.0.0").write_bytes(STACK[:2].tobytes())
    for reference in read_plates(folder).references.flat:
        read_plane(str(reference))


GROUPS = st.fixed_dictionaries({name: changed(attributes) for name, attributes in PLATE.items()})
BODIES = st.one_of(*(st.one_of(st.just(body), damaged(body)) for body in (*tiffs(), png())))
PLANES = {
    "plane": (st.tuples(BODIES, st.sampled_from([".tif", ".tif", ".png"]), MORE), run_plane),
    "OME-Zarr plate": (st.tuples(GROUPS, st.one_of(st.just(ARRAY), changed(ARRAY))), run_plate),
}
