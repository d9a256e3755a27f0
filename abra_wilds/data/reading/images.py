"""From a row of a data set to the pixels of its image: out of a pack if the data set has one, else its files.

Letters: C H W of an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from torch import Tensor

from abra_wilds.data.reading.packed import Pack, Window, cut, suffixes_of
from abra_wilds.data.reading.planes import unreadable_file
from abra_wilds.errors import InputError

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset

# As they are on disk, so they travel to the device, where `augment` makes floats of them: two bytes a pixel
# are half of what int32, and of what floats, would take in shared memory, in pinned memory and on the bus.
DEPTHS = (torch.uint8, torch.uint16)


def image_files(dataset: WILDSDataset, row: int) -> list[str]:
    """Where the image of a row of the data set lies: one file, or one for each of its stains."""
    if hasattr(dataset, "files_of"):
        return list(dataset.files_of(row))
    stem = str(Path(dataset.data_dir, str(dataset._input_array[row])))
    return [stem + suffix for suffix in suffixes_of(dataset)]


def image_path(dataset: WILDSDataset, row: int) -> Path:
    """The first of a row's `image_files`, by which messages name its image."""
    return Path(image_files(dataset, row)[0])


def read_image(dataset: WILDSDataset, row: int, window: Window | None = None) -> Tensor:
    """The image of a row of the data set, or a square window of it, (C, H, W) uint8 or uint16.

    Args:
        dataset: from `load_dataset`; with a pack, only the window's rows of it are touched.
        row: of the whole data set.
        window: (top, left, side), or None for all of the image.

    Raises:
        InputError: if it is missing, damaged, not 8 or 16 bits a channel, or the window is not inside; the
            sentence holds the path.
    """
    pack: Pack | None = getattr(dataset, "pack", None)
    if pack is not None:
        return pack.read(str(dataset._input_array[row]), window)
    x = read_files(dataset, row)
    if window is None:
        return x
    return x[cut(tuple(x.shape), window, str(image_path(dataset, row)))].contiguous()


def read_files(dataset: WILDSDataset, row: int) -> Tensor:
    """The image of a row, decoded from its files, (C, H, W) uint8 or uint16.

    Raises:
        InputError: as `read_image`.
    """
    # WILDS' own example script turns this on, and a cut-off file then loads with its lower rows zero.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = dataset.get_input(row)
        x = image if isinstance(image, Tensor) else decoded(image)
    except InputError:
        raise
    # Pillow answers damaged files with OSError, SyntaxError, ValueError, struct.error, zlib.error and its
    # own.
    except Exception as fault:
        raise unreadable(dataset, row, fault) from fault
    # What a data set of one's own may hand over; files that Pillow opens are 8 bits by now.
    if x.dtype not in DEPTHS or x.dim() != 3:
        raise InputError(
            f"{image_path(dataset, row)} gives {tuple(x.shape)} {x.dtype}, and images are (C, H, W) with "
            "8 or 16 bits a channel; convert it to that"
        )
    return x


class Form(NamedTuple):
    """What all images of a data set have in common: (C, H, W), and uint8 or uint16."""

    shape: tuple[int, ...]
    depth: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> Form:
        """That of an image."""
        return cls(tuple(x.shape), x.dtype)

    @property
    def bits(self) -> int:
        """Of a pixel."""
        return 8 * self.depth.itemsize


def check_form(path: Path, form: Form, wanted: Form, first: str | Path) -> None:
    """Refuse an image that is not like another.

    Args:
        path: of the image, for the message.
        form: its own.
        wanted: that of the other.
        first: which that is, for the message.

    Raises:
        InputError: if they differ.
    """
    if form.shape != wanted.shape:
        raise InputError(
            f"{path} has shape {form.shape} and {first} has {wanted.shape} (channels, height, width); all "
            "images of a data set must have one shape, so restore or convert it"
        )
    if form.depth != wanted.depth:
        raise InputError(
            f"{path} has {form.bits} bits a pixel and {first} has {wanted.bits}; all images of a data set "
            "must have one depth, so restore or convert it"
        )


def first_rows(dataset: WILDSDataset, parts: Sequence[NDArray[np.int64]]) -> list[int]:
    """Rows whose images are read before anything starts: the first of each part, and of a screen's plates."""
    rows = [int(part[0]) for part in parts]
    return rows + (dataset.one_a_plate(np.concatenate(parts)) if hasattr(dataset, "one_a_plate") else [])


def common_shape(dataset: WILDSDataset, rows: Sequence[int]) -> tuple[int, ...]:
    """The (C, H, W) of the images of some rows.

    Raises:
        InputError: if one differs from the first.
    """
    forms = [Form.of(read_image(dataset, row)) for row in rows]
    for row, form in zip(rows, forms, strict=True):
        check_form(image_path(dataset, row), form, forms[0], image_path(dataset, rows[0]))
    return forms[0].shape


def unreadable(dataset: WILDSDataset, row: int, fault: Exception) -> InputError:
    """The sentence about an image that could not be read, with its path."""
    return unreadable_file(image_path(dataset, row), fault)


def check_images(dataset: WILDSDataset, rows: Iterable[int]) -> None:
    """Refuse to go on unless every wanted row's image is there, by the index or by listing each folder once.

    Args:
        dataset: from `load_dataset`.
        rows: rows of the whole data set, such as `subset.indices`.

    Raises:
        InputError: with how many are missing and the first of them.
    """
    pack: Pack | None = getattr(dataset, "pack", None)
    if pack is None:
        missing, n = missing_files(dataset, rows)
    else:
        stems = np.array([str(dataset._input_array[row]) for row in rows])
        missing, n = stems[pack.find(stems) < 0].tolist(), len(stems)
    if missing:
        raise InputError(
            f"{len(missing):,} of {n:,} images are missing, the first is {missing[0]}; restore them"
            + (", or say where they are by --image_root OLD=NEW" if hasattr(dataset, "place_of") else "")
        )


def missing_files(dataset: WILDSDataset, rows: Iterable[int]) -> tuple[list[str], int]:
    """Files of the images of these rows that are not there, and how many files there should be."""
    listed: dict[str, frozenset[str]] = {}
    missing = []
    n = 0
    named = ((row, file) for row in rows for file in enumerate(image_files(dataset, row)))
    for place, (k, path) in named:
        folder, name = os.path.split(path)
        # One listing a folder instead of a question a file, of which six stains have 750,000.
        if folder not in listed:
            listed[folder] = frozenset(os.listdir(folder)) if os.path.isdir(folder) else frozenset()
        n += 1
        if name not in listed[folder]:
            said = f" of {dataset.place_of(place, k)}" if hasattr(dataset, "place_of") else ""
            missing.append(f"{path}{said}")
    return missing, n


def decoded(image: Image.Image) -> Tensor:
    """An image as (C, H, W) uint8; its file is closed.

    Raises:
        ValueError: if it is not 8-bit grey or RGB.
    """
    with image:
        if image.mode not in ("L", "RGB"):
            raise ValueError(f"its pixels are of mode {image.mode}, not 8-bit grey or RGB")
        x = np.array(image)
    x = x[:, :, None] if x.ndim == 2 else x
    return torch.from_numpy(x).permute(2, 0, 1).contiguous()
