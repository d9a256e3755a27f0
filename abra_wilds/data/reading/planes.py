"""One channel of one site, wherever it lies: a PNG, a TIFF or a plane of one, an array of an OME-Zarr.

A reference is a path and, where the file holds more than one plane, a place in it, counted from 0:

- `site.png`, grey of 8 or 16 bits;
- `site.tif`, `stack.tif#plane=3`, `stack.tif#plane=max`, `stack.ome.tif#channel=1&plane=0`;
- `plate.zarr/ROW/COLUMN/FIELD#c=1`, with `&z=3`, `&z=max` and `&t=0` where the array has those axes.

`c` and `channel`, `z` and `plane` are the same. `scale=FACTOR` makes grey levels of fractions.

Letters: C channels, H W of an image.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from abra_wilds.errors import InputError

# It notes every odd tag, of which vendors write many; what cannot be read is refused by a sentence.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
Plane = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16
HIGHEST = 65535
_KEYS = {"c": "c", "channel": "c", "z": "z", "plane": "z", "t": "t", "scale": "scale"}
_PLACED = re.compile(r"(.+)#(\w+=[^=&#/\\]+(?:&\w+=[^=&#/\\]+)*)")
_AXES = {"c": "channels", "z": "planes", "t": "times"}


class Reference(NamedTuple):
    """A reference, taken apart.

    Attributes:
        text: as it came.
        path: of the file, or of the field of an OME-Zarr.
        at: what follows it, by the letter of the axis, and `scale`.
    """

    text: str
    path: str
    at: Mapping[str, str]

    @classmethod
    def of(cls, text: str) -> Reference:
        """Take a reference apart.

        Raises:
            InputError: for an unknown key.
        """
        found = _PLACED.fullmatch(text)
        if not found:
            return cls(text, text, {})
        pairs = [pair.split("=") for pair in found[2].split("&")]
        for key, _ in pairs:
            if key not in _KEYS:
                raise InputError(f"{text} has the key {key!r}; choose {', '.join(_KEYS)}, or rename the file")
        return cls(text, found[1], {_KEYS[key]: value for key, value in pairs})


def read_plane(reference: str) -> Plane:
    """The pixels of a reference, (H, W) uint8 or uint16.

    Numbers of any other kind become uint16 as they are, which takes whole ones from 0 to 65535.

    Raises:
        InputError: if the file is missing, damaged or of another kind, has colours, or holds more than one
            plane and the reference names none.
    """
    at = Reference.of(reference)
    # Of damaged files every library says so by many kinds of exception.
    try:
        plane = _reader(at.path)(at)
    except InputError:
        raise
    except Exception as fault:
        raise unreadable_file(at.path, fault) from fault
    return _grey(at, plane)


def read_site(
    references: Sequence[str], illumination: Sequence[str] | None = None, image_size: int = 0
) -> Tensor:
    """The channels of one site, (C, H, W) uint8 or uint16.

    Args:
        references: (C) of the channels.
        illumination: (C) for each channel an .npy of (H, W) that its pixels are divided by, or "" for none.
        image_size: S, pixels a side of what is returned, 0 for images as they are; see `fit_to`.

    Raises:
        InputError: as `read_plane`, or if channels differ in size or depth.
    """
    planes = [read_plane(reference) for reference in references]
    for reference, plane in zip(references, planes, strict=True):
        if (plane.shape, plane.dtype) != (planes[0].shape, planes[0].dtype):
            here, first = (f"{p.shape[0]} x {p.shape[1]} pixels of {p.dtype}" for p in (plane, planes[0]))
            raise InputError(
                f"{reference} is {here} and {references[0]} is {first}; the channels of a site must be "
                "alike, so restore or convert it"
            )
    if illumination is not None:
        lamps = zip(planes, illumination, references, strict=True)
        planes = [evened(plane, lamp, name) if lamp else plane for plane, lamp, name in lamps]
    x = np.stack(planes)
    return torch.from_numpy(fit_to(x, image_size, references[0]) if image_size else x)


def evened(plane: Plane, illumination: str, name: str) -> Plane:
    """A plane divided by an illumination function, rounded, and cut off where its depth ends.

    Args:
        plane: (H, W).
        illumination: path of an .npy, (H, W) > 0.
        name: of the plane, for messages.

    Raises:
        InputError: if the function cannot be read, is of another size, or not above 0.
    """
    try:
        lamp = np.load(illumination)
    except (OSError, ValueError, EOFError) as fault:
        raise unreadable_file(illumination, fault) from fault
    if not isinstance(lamp, np.ndarray) or lamp.shape != plane.shape or lamp.dtype.kind not in "uif":
        raise InputError(
            f"{illumination} is no array of {plane.shape[0]} x {plane.shape[1]} numbers, which {name} should "
            "be divided by; restore it"
        )
    if not (np.isfinite(lamp) & (lamp > 0)).all():
        raise InputError(f"{illumination} has values that are not above 0; restore it, or leave it out")
    even: Plane = np.rint(plane / lamp).clip(0, np.iinfo(plane.dtype).max).astype(plane.dtype)
    return even


def fit_to(x: Plane, side: int, name: str) -> Plane:
    """Images at S x S: binned by the largest whole number that leaves S pixels, then the middle of that.

    So images of 2160 and of 1080 pixels show the same field at 512. A bin is the rounded mean of its pixels.

    Args:
        x: (C, H, W), uint8 or uint16.
        side: S.
        name: of the image, for messages.

    Returns:
        (C, S, S) of the same depth.

    Raises:
        InputError: if S is larger than H or W.
    """
    C, H, W = x.shape
    f = min(H, W) // side
    if f < 1:
        raise InputError(f"{name} is {H} x {W} pixels, smaller than image_size {side}; give a smaller one")
    top, left = (H - f * side) // 2, (W - f * side) // 2
    middle = x[:, top : top + f * side, left : left + f * side]
    if f == 1:
        return np.ascontiguousarray(middle)
    sums = middle.reshape(C, side, f, side, f).sum((2, 4), dtype=np.uint32)  # (C, S, S)
    means: Plane = ((sums + f * f // 2) // (f * f)).astype(x.dtype)
    return means


def unreadable_file(path: str | Path, fault: Exception) -> InputError:
    """The sentence about a file of an image that could not be read."""
    reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
    return InputError(f"{path} cannot be read ({reason}); restore this image")


@cache
def zarr_library() -> Any:
    """The package zarr, by which a chunk that was cut off is a fault.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import numcodecs
        import zarr
    except ImportError as fault:
        raise InputError(
            "an OME-Zarr needs the package zarr, which is not installed; run `pip install 'abra-wilds[zarr]'`"
        ) from fault

    class WholeBlosc(numcodecs.Blosc):  # type: ignore[misc]
        """Its own decoder reads on after the end of a chunk, as far as the header says."""

        def decode(self, buf: Any, out: Any = None) -> Any:
            length = memoryview(buf).nbytes
            if length < 16 or int.from_bytes(memoryview(buf).cast("B")[12:16], "little") != length:
                raise ValueError(f"a chunk was cut off after {length} bytes")
            return super().decode(buf, out)

    numcodecs.register_codec(WholeBlosc, "blosc")
    return zarr


def ome_attributes(folder: str | Path) -> dict[str, Any]:
    """What NGFF says of a group: its attributes (0.4), or those under `ome` (0.5)."""
    attributes: dict[str, Any] = dict(zarr_library().open_group(str(folder), mode="r").attrs)
    return dict(attributes.get("ome", attributes))


def open_field(path: str) -> tuple[Any, str]:
    """The full resolution of an image of an OME-Zarr, unread, and the letters of its axes.

    Raises:
        InputError: if it is none.
    """
    images = ome_attributes(path).get("multiscales")
    if not images:
        raise InputError(f"{path} is no image of an OME-Zarr; name PLATE.zarr/ROW/COLUMN/FIELD")
    array = zarr_library().open_array(f"{path}/{images[0]['datasets'][0]['path']}", mode="r")
    return array, "".join(axis["name"].lower() for axis in images[0]["axes"])


def _reader(path: str) -> Callable[[Reference], NDArray[Any]]:
    """What reads a file of its kind."""
    if ".zarr" in path:
        return _read_zarr
    readers = {".png": _read_png, ".tif": _read_tiff, ".tiff": _read_tiff}
    end = Path(path).suffix.lower()
    if end not in readers:
        raise InputError(f"{path} is no {', '.join(readers)} or field of a .zarr; convert it to one of them")
    return readers[end]


def _read_png(at: Reference) -> NDArray[Any]:
    place(at, "yx", (1, 1))
    return _pillow(at.path, 0)


def _pillow(path: str, page: int) -> NDArray[Any]:
    """The grey pixels of a page; of 16 bits they are of mode I in older versions of Pillow."""
    with Image.open(path) as image:
        image.seek(page)
        if image.mode not in ("L", "I;16", "I;16B", "I"):
            raise _coloured(path, f"pixels of mode {image.mode}")
        return np.array(image)


def _read_tiff(at: Reference) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(at.path) as tiff:
        series: Any = tiff.series[0]
        index = place(at, series.axes.lower(), series.shape)
        lead = series.shape[:-2]
        if len(series.pages) != math.prod(lead):
            return _highest(series.asarray()[index])
        pages = np.arange(math.prod(lead)).reshape(lead)[index].ravel().tolist()
        try:
            return _highest(np.stack([series.pages[page].asarray() for page in pages]))
        except ValueError as fault:
            # Of LZW, for which tifffile wants a large package and Pillow has a decoder.
            if "imagecodecs" not in str(fault):
                raise
    return _highest(np.stack([_pillow(at.path, page) for page in pages]))


def _read_zarr(at: Reference) -> NDArray[Any]:
    array, axes = open_field(at.path)
    return _highest(np.asarray(array[place(at, axes, array.shape)]))


def _highest(planes: NDArray[Any]) -> NDArray[Any]:
    """The maximum over all planes, (H, W), of (..., H, W)."""
    flat = planes.reshape(-1, *planes.shape[-2:])
    highest: NDArray[Any] = flat[0] if len(flat) == 1 else flat.max(0)
    return highest


def place(at: Reference, axes: str, shape: Sequence[int]) -> tuple[int | slice, ...]:
    """Where a reference's plane is along all axes but the last two; a slice where the maximum is taken.

    An axis to which its file gives no name serves as `z` or as `c`, whichever the reference names.

    Raises:
        InputError: if the plane is not named, or not there, or the image has colours.
    """
    if not axes.endswith("yx") or len(axes) != len(shape):
        raise _coloured(at.path, f"the axes {axes.upper()}")
    wanted = {letter: value for letter, value in at.at.items() if letter in _AXES}
    index: list[int | slice] = []
    for letter, n in zip(axes[:-2], shape[:-2], strict=True):
        spare = next((name for name in wanted if name not in axes), "z")
        name = letter if letter in _AXES else spare
        index.append(_along(at, name, wanted.pop(name, "0" if n == 1 else None), n))
    for name, value in wanted.items():  # of axes that the file has not
        _along(at, name, value, 1)
    return tuple(index)


def _along(at: Reference, name: str, value: str | None, n: int) -> int | slice:
    """The place along an axis of n, by what the reference says of it."""
    if value is None:
        largest = ", or the brightest of all with z=max" if name == "z" else ""
        raise InputError(f"{at.path} holds {n} {_AXES[name]}; name one, as in {at.path}#{name}=0{largest}")
    if value == "max" and name == "z":
        return slice(None)
    if not (value.isascii() and value.isdecimal() and int(value) < n):
        raise InputError(f"{at.text} asks for {name}={value} of {n} {_AXES[name]}; they count from 0")
    return int(value)


def _grey(at: Reference, plane: NDArray[Any]) -> Plane:
    """A plane as uint8 or uint16."""
    if "scale" in at.at:
        plane = np.rint(plane * _factor(at))
    if plane.dtype.kind == "u" and plane.dtype.itemsize <= 2:
        return np.ascontiguousarray(plane.astype(plane.dtype.newbyteorder("="), copy=False))
    # False where it is no number, too.
    whole = (plane >= 0) & (plane <= HIGHEST) & (plane == np.rint(plane))
    if plane.dtype.kind not in "uif" or not whole.all():
        raise InputError(
            f"{at.text} has pixels of {plane.dtype} that are not whole numbers from 0 to {HIGHEST}; give a "
            f"factor that makes them so, as in {at.path}#scale=1000, or convert it"
        )
    return plane.astype(np.uint16)


def _factor(at: Reference) -> float:
    try:
        factor = float(at.at["scale"])
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise InputError(f"{at.text} has no number above 0 as its scale; give one, such as 65535")
    return factor


def _coloured(path: str, what: str) -> InputError:
    return InputError(f"{path} has {what}, and a channel is one grey plane of 8 or 16 bits; convert it")
