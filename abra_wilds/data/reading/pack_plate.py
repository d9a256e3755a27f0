"""One plate of a pack: its array, and the table beside it that says that the array is whole.

Letters: n images of a plate, C H W of an image, N pixels a side of a shrunk one.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from abra_wilds.data.reading.facts import facts_of
from abra_wilds.data.reading.images import Form, check_form, image_path, read_files
from abra_wilds.data.reading.packed import DEPTHS, suffixes_of
from abra_wilds.errors import InputError
from abra_wilds.results.files import atomic_write, sha256, write_text

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset

# What no disk takes in a file's name, Windows' among them.
UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f]|^\.')


@dataclass(frozen=True)
class Plate:
    """The rows of a data set that go into one file, sorted by the names of their images."""

    name: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What every plate is packed by.

    Attributes:
        folder: of the pack.
        form: of the image files.
        size: N, or 0 for images as they are.
    """

    folder: Path
    form: Form
    size: int

    @property
    def packed(self) -> tuple[int, ...]:
        """The shape of a packed image."""
        return (self.form.shape[0], self.size, self.size) if self.size else self.form.shape

    @property
    def depth(self) -> str:
        """The dtype of its pixels, by its name in tables."""
        return f"uint{self.form.bits}"

    @property
    def filter(self) -> str | None:
        """How images are shrunk.

        Where N divides the side, by the mean of the pixels that one covers: intensities stay, and nothing
        rings around bright spots, which on the nearly black ground of a stain would be cut off at 0. That
        mean would be uneven for another N, so that Lanczos' filter serves there.
        """
        if not self.size:
            return None
        return "lanczos" if self.form.shape[1] % self.size else "box"


def plates_of(dataset: WILDSDataset) -> list[Plate]:
    """The plates of a data set by name, alike whatever the order of its rows."""
    fields = list(dataset.metadata_fields)
    columns = dataset.metadata_array[:, [fields.index("experiment"), fields.index("plate")]]
    pairs, which = np.unique(columns.numpy(), axis=0, return_inverse=True)
    stems = np.array([str(stem) for stem in dataset._input_array])
    rows_of: list[list[int]] = [[] for _ in pairs]
    # By name, not by row: a metadata.csv in another order gives the same bytes.
    for row in np.argsort(stems).tolist():
        rows_of[which.flat[row]].append(row)  # .flat: some NumPy 2.0 give this inverse a second axis
    names = dataset._metadata_map["experiment"]
    plates = dataset._metadata_map.get("plate")
    found: dict[str, tuple[int, ...]] = {}
    for (experiment, plate), rows in zip(pairs.tolist(), rows_of, strict=True):
        name = UNSAFE.sub("-", f"{names[experiment]}_plate{plate if plates is None else plates[plate]}")
        found[name if name not in found else f"{name}-{len(found)}"] = tuple(rows)
    return [Plate(name, rows) for name, rows in sorted(found.items())]


def stems_of(dataset: WILDSDataset, plate: Plate) -> list[str]:
    """The names of a plate's images, in order."""
    return [str(dataset._input_array[row]) for row in plate.rows]


def read_plate_table(folder: Path, name: str) -> dict[str, Any] | None:
    """The table beside a plate's array; None if it was never written, or the array has not all its bytes."""
    try:
        table: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        size = (folder / f"{name}.npy").stat().st_size
    except (OSError, ValueError, RecursionError):
        return None
    return table if size == table["bytes"] else None


def kept_table(dataset: WILDSDataset, plate: Plate, folder: Path) -> dict[str, Any] | None:
    """The table of a plate that need not be packed again, else None.

    It holds every image, and each that is there has the size and time it had. Files may be deleted once they
    are packed. Where all are there, every time is another and no size, the data set was copied without its
    times, or touched, and the pack keeps its pixels and takes the new times.
    """
    table = read_plate_table(folder, plate.name)
    if table is None or "times" not in table or not set(stems_of(dataset, plate)) <= set(table["stems"]):
        return None
    facts = facts_of(dataset, table["stems"])
    sizes, times = (np.array(table[name], dtype=np.uint32) for name in ("sizes", "times"))
    if not facts.changed(sizes, times).any():
        return table
    if not facts.there.all() or (facts.sizes != sizes).any() or (facts.times == times).any():
        return None
    table["times"] = facts.times.tolist()
    write_text(folder / f"{plate.name}.json", json.dumps(table))
    return table


def write_plate(plan: Plan, dataset: WILDSDataset, plate: Plate) -> list[str]:
    """Pack a plate, or leave it out and say what is wrong with each of its images that cannot be packed.

    Raises:
        OSError: naming the file, if the disk does not take it; the same start then goes on with this plate.
    """
    # Before the pixels: a file that changes meanwhile is then not what the table says.
    facts = facts_of(dataset, stems_of(dataset, plate))
    path = plan.folder / f"{plate.name}.npy"
    shape = (len(plate.rows), *plan.packed)
    suffixes = list(suffixes_of(dataset))
    table: dict[str, Any] = {"suffixes": suffixes, "shape": shape, "filter": plan.filter}
    if plan.depth != "uint8":
        table["dtype"] = plan.depth
    try:
        with atomic_write(path) as temporary:
            crcs = write_array(temporary, plan, dataset, plate)
            table |= {"stems": stems_of(dataset, plate), "crc32": crcs}
            table |= {"sha256": sha256(temporary), "bytes": temporary.stat().st_size}
        table |= {"sizes": facts.sizes.tolist(), "times": facts.times.tolist()}
        write_text(path.with_suffix(".json"), json.dumps(table))
    except Unpackable as fault:
        return fault.faults
    return []


class Unpackable(Exception):
    """Images of a plate cannot be packed; `faults` has a sentence for each."""

    def __init__(self, faults: list[str]):
        super().__init__(faults[0])
        self.faults = faults


def write_array(path: Path, plan: Plan, dataset: WILDSDataset, plate: Plate) -> list[int]:
    """Write a plate's images as `.npy`, (n, C, H, W) uint8 or uint16, and return the crc32 of each.

    Raises:
        Unpackable: once all have been tried.
    """
    crcs, faults = [], []
    with open(path, "wb") as file:
        shape = (len(plate.rows), *plan.packed)
        descr = np.lib.format.dtype_to_descr(DEPTHS[plan.depth])
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        for row in plate.rows:
            try:
                image = pixels(plan, dataset, row).tobytes()
            except InputError as fault:
                # On with the others, so that one start names every bad image; the array is thrown away.
                faults.append(str(fault))
                continue
            crcs.append(zlib.crc32(image))
            file.write(image)
    if faults:
        raise Unpackable(faults)
    return crcs


def pixels(plan: Plan, dataset: WILDSDataset, row: int) -> NDArray[np.unsignedinteger[Any]]:
    """What is packed of a row, (C, H, W) or (C, N, N) uint8 or uint16.

    Raises:
        InputError: if the image cannot be read or is not of the plan's form.
    """
    x = read_files(dataset, row)
    check_form(image_path(dataset, row), Form.of(x), plan.form, "the first image")
    return (shrunk(x, plan) if plan.filter else x).numpy()


def shrunk(x: Tensor, plan: Plan) -> Tensor:
    """An image, (C, H, W) uint8 or uint16, channel by channel at N x N."""
    kind = {"box": Image.Resampling.BOX, "lanczos": Image.Resampling.LANCZOS}[str(plan.filter)]
    side = (plan.size, plan.size)
    # One by one: Pillow resizes no images of six channels.
    deep = x.dtype == torch.uint16
    # Of 16 bits as floats, which Pillow resizes by the same filters, and which hold every level exactly.
    grey = x.numpy().astype(np.float32) if deep else x.numpy()
    y = np.stack([np.asarray(Image.fromarray(channel).resize(side, kind)) for channel in grey])
    return torch.from_numpy(np.rint(y).clip(0, 65535).astype(np.uint16) if deep else y)
