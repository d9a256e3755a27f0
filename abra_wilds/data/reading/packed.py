"""Packed images: one memory-mapped array for each experiment's plate, written by `abra-wilds pack`.

A pack is a folder beside the images: `index.json`, written last, and for each plate a plain `.npy` of uint8
or uint16, (n, C, H, W), which `np.load(path, mmap_mode="r")` opens too. Rows go by the name that the data set
has for an image, so that neither split schemes nor the order of metadata.csv matter.

Letters: n images of a plate, C H W of an image.
"""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from abra_wilds.config.data import DATA_FORMATS
from abra_wilds.data.reading.facts import facts_of, table_digests
from abra_wilds.dist import is_main
from abra_wilds.errors import InputError

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset

FORMAT = 2
INDEX = "index.json"
# What the index of another program, or half of one, leads to.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
Window = tuple[int, int, int]
# By their names in an index, which says nothing of 8 bits: so do all that were written before there were 16.
DEPTHS: dict[str, np.dtype[Any]] = {"uint8": np.dtype(np.uint8), "uint16": np.dtype(np.uint16)}


class Pack:
    """A pack, whose files are mapped when a process first reads from them.

    Attributes:
        folder: where it lies.
        shape: (C, H, W) of every image.
        depth: of its pixels, uint8 or uint16.
        suffixes: of the image files that each was packed from, channel by channel.
        files: the name, bytes and sha256 of each file.
        tables: name -> sha256 of the data set's tables when it was packed.
        sizes, times: (len,) what `facts_of` said of each image's files then.

    Args:
        folder: of the pack, for messages as well.
        index: the content of its index.json.
    """

    def __init__(self, folder: Path, index: dict[str, Any]):
        self.folder = folder
        self.shape: tuple[int, int, int] = tuple(index["shape"])
        self.depth = DEPTHS[index.get("dtype", "uint8")]
        self.suffixes = tuple(index["suffixes"])
        self.tables: dict[str, str] = index["tables"]
        files: list[dict[str, Any]] = index["files"]
        self.files = [{key: file[key] for key in ("name", "bytes", "sha256")} for file in files]
        counts = [len(file["stems"]) for file in files]
        if not sum(counts):
            raise ValueError("no images")
        # As bytes, a quarter of what NumPy takes for text.
        stems = np.array([stem.encode() for file in files for stem in file["stems"]])
        # Arrays, where a dictionary of 125,510 names would be copied into each worker, touch by touch.
        order = np.argsort(stems)
        self._stems = stems[order]
        self._file = np.repeat(np.arange(len(counts)), counts)[order]
        self._row = np.concatenate([np.arange(count) for count in counts])[order]
        self._crc, self.sizes, self.times = (
            np.array([int(number) for file in files for number in file[name]], dtype=np.uint32)[order]
            for name in ("crc32", "sizes", "times")
        )
        self._maps: dict[int, NDArray[np.unsignedinteger[Any]]] = {}

    @classmethod
    def open(cls, folder: Path) -> Pack:
        """The pack in a folder, if each of its files is there with all its bytes.

        Raises:
            InputError: if there is none, it is of another version, or not whole.
        """
        path = folder / INDEX
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            if index["format"] != FORMAT:
                raise InputError(
                    f"{path} is of format {index['format']!r:.40}, and this version reads {FORMAT}"
                )
            pack = cls(folder, index)
            sizes = [(f["name"], size_of(folder, f["name"]), int(f["bytes"])) for f in pack.files]
        except InputError:
            raise
        except FileNotFoundError as fault:
            raise InputError(f"there is no pack in {folder}, or an unfinished one") from fault
        except UNREADABLE as fault:
            raise InputError(f"{path} is not the index of a pack") from fault
        for name, size, n_bytes in sizes:
            if size != n_bytes:
                raise InputError(f"{folder / name} has {size:,} bytes, and the index says {n_bytes:,}")
        return pack

    def __getstate__(self) -> dict[str, Any]:
        # A pickled map would be a copy of its file; the process that gets it maps the file itself.
        return {**self.__dict__, "_maps": {}}

    def __len__(self) -> int:
        return len(self._stems)

    def find(self, stems: Sequence[str] | NDArray[Any]) -> NDArray[np.int64]:
        """The place of each image, (len(stems),), or -1 where it is not packed."""
        wanted = np.array([str(stem).encode() for stem in stems], dtype=bytes)
        # A name after the last has the place len(self), which is no index; the comparison finds it absent.
        places = np.minimum(np.searchsorted(self._stems, wanted), len(self) - 1)
        return np.where(self._stems[places] == wanted, places, -1)

    def read(self, stem: str, window: Window | None = None) -> Tensor:
        """An image, or a square window of it, (C, h, w) uint8 or uint16; no other rows are touched.

        Args:
            stem: its entry in the data set's `_input_array`.
            window: (top, left, side), or None for all of it.

        Raises:
            InputError: if it is not packed, its file cannot be opened, or the window leaves it.
        """
        place = self._place(stem)
        x = self._map(int(self._file[place]))[self._row[place]]
        # The copy reads the file, here in the worker; and torch warns of maps that cannot be written to.
        return torch.from_numpy(x[cut(self.shape, window, f"{stem} in {self.folder}")].copy())

    def crc32(self, stem: str) -> int:
        """The checksum that was taken of an image as it was packed."""
        return int(self._crc[self._place(stem)])

    def images_of(self, number: int) -> tuple[list[str], list[int]]:
        """The names and checksums of a file's images, in order."""
        own = np.flatnonzero(self._file == number)
        own = own[np.argsort(self._row[own])]
        return [stem.decode() for stem in self._stems[own].tolist()], self._crc[own].tolist()

    def _place(self, stem: str) -> int:
        place = int(self.find([stem])[0])
        if place < 0:
            raise InputError(f"{stem} is not in the pack {self.folder}; pack the data set again")
        return place

    def _map(self, number: int) -> NDArray[np.unsignedinteger[Any]]:
        if number not in self._maps:
            path = self.folder / self.files[number]["name"]
            try:
                self._maps[number] = np.asarray(np.load(path, mmap_mode="r"))
            except (OSError, ValueError) as fault:
                raise InputError(f"{path} cannot be mapped ({fault}); pack the data set again") from fault
        return self._maps[number]


def size_of(folder: Path, name: str) -> int:
    """The bytes of a file in a folder itself; 0 if there is none, or the name leads elsewhere."""
    there = folder / name
    return there.stat().st_size if there.parent == folder and there.is_file() else 0


def cut(shape: tuple[int, ...], window: Window | None, name: str) -> tuple[slice, slice, slice]:
    """The slices of a window (top, left, side) of a (C, H, W) image; all of it for None.

    Raises:
        InputError: if the window does not lie inside.

    >>> cut((3, 8, 8), (2, 4, 4), "x.png")
    (slice(None, None, None), slice(2, 6, None), slice(4, 8, None))
    """
    if window is None:
        return slice(None), slice(None), slice(None)
    top, left, side = window
    _, H, W = shape
    if min(top, left) < 0 or side < 1 or top + side > H or left + side > W:
        raise InputError(
            f"a window of {side} x {side} pixels from row {top}, column {left} is not inside {name}, which "
            f"is {H} x {W}; ask for a smaller one, or restore the image if it should be larger"
        )
    return slice(None), slice(top, top + side), slice(left, left + side)


def suffixes_of(dataset: WILDSDataset) -> tuple[str, ...]:
    """What follows an entry of `_input_array` in the names of its files, one each for stains."""
    return tuple(getattr(dataset, "suffixes", ("",)))


def pack_folder(data_dir: str | Path, size: int = 0) -> Path:
    """Where the pack of a data set lies: of images as they are, or shrunk to `size` pixels a side."""
    return Path(data_dir) / (f"packed_{size}" if size else "packed")


def chosen_pack(
    dataset: WILDSDataset, root_dir: str | Path, data_format: str | None, packed_size: int
) -> Pack | None:
    """The pack to read a data set from, or None for its image files.

    Args:
        dataset: as WILDS loads it.
        root_dir: where it was found, for messages.
        data_format: "packed", "png", or None for the pack if it is there and of these images; a pack that
            cannot be used is warned of.
        packed_size: side of the shrunk pack, or 0 for the full size.

    Raises:
        InputError: if what is asked for is not there or cannot be used.
    """
    if data_format not in (None, *DATA_FORMATS):
        raise InputError(f"unknown data_format {data_format!r}; choose one of {', '.join(DATA_FORMATS)}")
    if packed_size < 0 or (packed_size and data_format == "png"):
        raise InputError(
            f"packed_size is {packed_size} with data_format {data_format}; give the side of a pack, with "
            "data_format packed or unset, or 0"
        )
    folder = pack_folder(dataset.data_dir, packed_size)
    free_choice = data_format is None and not packed_size
    if data_format == "png" or (free_choice and not folder.is_dir()):
        return None
    command = pack_command(dataset, root_dir, packed_size)
    try:
        pack = Pack.open(folder)
        check_pack(pack, dataset)
    except InputError as fault:
        if not free_choice:
            otherwise = "leave out --packed_size" if packed_size else "read the files with --data_format png"
            raise InputError(f"{fault}; run '{command}' or {otherwise}") from fault
        if is_main():
            warnings.warn(f"{fault}; image files are read until '{command}' has run", stacklevel=3)
        return None
    return pack


def pack_command(dataset: WILDSDataset, root_dir: str | Path, size: int = 0) -> str:
    """What makes the pack of a data set, for messages."""
    shrunk = f" --size {size}" if size else ""
    return f"abra-wilds pack {shlex.quote(str(root_dir))} --dataset {dataset.dataset_name}{shrunk}"


def check_pack(pack: Pack, dataset: WILDSDataset) -> None:
    """Refuse a pack that lacks an image of the data set, or was made of other images or tables.

    Sizes and times of all image files are compared, which takes seconds for 750,000; an image that was
    written over with neither changed is found by `abra-wilds validate`.

    Raises:
        InputError: with what it lacks or what has changed.
    """
    stems: NDArray[Any] = dataset._input_array
    suffixes = suffixes_of(dataset)
    # Without image files, a data set's channels are a guess.
    if pack.suffixes != suffixes and Path(dataset.data_dir, f"{stems[0]}{suffixes[0]}").is_file():
        raise InputError(f"{pack.folder} has {len(pack.suffixes)} channels and the files {len(suffixes)}")
    places = pack.find(stems)
    missing = np.flatnonzero(places < 0)
    if len(missing):
        raise InputError(
            f"{pack.folder} lacks {len(missing):,} of {len(stems):,} images, first {stems[missing[0]]}"
        )
    for name, digest in table_digests(dataset).items():
        if pack.tables.get(name) != digest:
            table = Path(dataset.data_dir, name)
            raise InputError(f"{table if table.exists() else name} is not what {pack.folder} was packed by")
    changed = np.flatnonzero(facts_of(dataset, stems).changed(pack.sizes[places], pack.times[places]))
    if len(changed):
        raise InputError(
            f"{len(changed):,} of {len(stems):,} images, first {stems[changed[0]]}, have another size or "
            f"time than when {pack.folder} was packed (a copy keeps times with cp -p)"
        )
