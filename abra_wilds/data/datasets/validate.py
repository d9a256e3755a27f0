"""`abra-wilds validate`: read every file of a data set, and of its packs, before a training run does.

Letters: C H W of an image.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from abra_wilds.compat.imports import import_wilds
from abra_wilds.config.datasets import TTA_GROUPS
from abra_wilds.data.datasets.catalogue import make_grouper
from abra_wilds.data.reading.images import Form, image_path, missing_files, read_files
from abra_wilds.data.reading.pack_plate import Plate, plates_of, stems_of
from abra_wilds.data.reading.packed import Pack, check_pack, pack_command
from abra_wilds.errors import InputError
from abra_wilds.pools import each

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset

MOST_LINES = 20


@dataclass
class Findings:
    """What reading some images has shown.

    Attributes:
        problems: a sentence each.
        blank: how many images have a channel of one value alone, by channel.
        first_blank: the first of them.
        rows_of: digest of an image's pixels -> its rows; images of one value alone have none.
    """

    problems: list[str] = field(default_factory=list)
    blank: Counter[int] = field(default_factory=Counter)
    first_blank: str = ""
    rows_of: dict[bytes, list[int]] = field(default_factory=dict)

    def add(self, other: Findings) -> None:
        """Take in what others have shown."""
        self.problems += other.problems
        self.blank += other.blank
        self.first_blank = min(filter(None, (self.first_blank, other.first_blank)), default="")
        for digest, rows in other.rows_of.items():
            self.rows_of.setdefault(digest, []).extend(rows)


def report_problems(problems: Sequence[str]) -> int:
    """Print what is wrong, and return the exit code."""
    if not problems:
        sys.stdout.write("nothing is wrong\n")
        return 0
    lines = sorted(problems)[:MOST_LINES]
    more = [f"and {len(problems) - MOST_LINES:,} more"] if len(problems) > MOST_LINES else []
    count = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}:"
    sys.stdout.write("\n  ".join([count, *lines, *more]) + "\n")
    return 1


def bad_plates(dataset: WILDSDataset) -> list[str]:
    """What is wrong with the numbers of plates."""
    try:
        make_grouper(dataset, TTA_GROUPS["plate"])
    except InputError as fault:
        return [str(fault)]
    return []


def blank_line(found: Findings) -> str:
    """How many images have a channel without content."""
    if not found.blank:
        return "blank channels: none"
    counts = ", ".join(f"channel {c} in {n:,} images" for c, n in sorted(found.blank.items()))
    return f"blank channels: {counts}, first {found.first_blank}"


def leaks(dataset: WILDSDataset, found: Findings) -> list[str]:
    """Images of training and of another split that have the same pixels, a sentence each."""
    splits = np.asarray(dataset.split_array)
    names = {number: split for split, number in dataset.split_dict.items()}
    train = dataset.split_dict["train"]
    problems = []
    for rows in map(sorted, found.rows_of.values()):
        trained = [row for row in rows if splits[row] == train]
        others = [row for row in rows if splits[row] in names and splits[row] != train]
        if trained and others:
            problems.append(
                f"{image_path(dataset, others[0])} of {names[int(splits[others[0]])]} has the pixels of "
                f"{image_path(dataset, trained[0])} of train; restore the one that is not its own"
            )
    return problems


def opened_packs(dataset: WILDSDataset, root: str) -> tuple[list[Pack], list[str]]:
    """The packs of a data set that can be opened, and what is wrong with these or others."""
    packs, problems = [], []
    for folder in sorted(Path(dataset.data_dir).glob("packed*")):
        size = size_of(folder)
        if size is None or not folder.is_dir():
            continue
        try:
            packs.append(Pack.open(folder))
            check_pack(packs[-1], dataset)
        except InputError as fault:
            problems.append(f"{fault}; run '{pack_command(dataset, root, size)}' again")
    return packs, problems


def size_of(folder: Path) -> int | None:
    """The size to which a pack's folder says that its images are shrunk, 0 for none; None for other folders.

    >>> [size_of(Path(name)) for name in ("packed", "packed_64", "packed_old")]
    [0, 64, None]
    """
    found = re.fullmatch(r"packed(?:_(\d+))?", folder.name)
    return int(found[1] or 0) if found else None


def no_files(dataset: WILDSDataset) -> bool:
    """Whether all image files are gone, as they may be once they are packed."""
    missing, n = missing_files(dataset, range(len(dataset)))
    return len(missing) == n


def check_files(dataset: WILDSDataset, pack: Pack | None, workers: int, command: str) -> Findings:
    """Decode every image; they must be alike, and what the full-size pack holds of them.

    Args:
        dataset: read from files.
        pack: of full size, or None.
        workers: processes that decode.
        command: makes the pack, for messages.
    """
    found = Findings()
    plates = plates_of(dataset)
    check = partial(check_plate, first_form(dataset), command)
    tasks = [(plate, packed_crcs(dataset, plate, pack)) for plate in plates]
    checked = each(
        check,
        dataset,
        tasks,
        workers=workers,
        n_images=lambda task: len(task[0].rows),
        desc="images",
        ready=import_wilds,
    )
    for _, result in checked:
        found.add(result)
    return found


def first_form(dataset: WILDSDataset) -> Form | None:
    """That of the first image that can be read; others must have it."""
    for row in range(len(dataset)):
        try:
            return Form.of(read_files(dataset, row))
        except InputError:
            continue
    return None


def packed_crcs(dataset: WILDSDataset, plate: Plate, pack: Pack | None) -> list[int | None]:
    """The checksum that the pack has of each image of a plate, None where it has none."""
    stems = stems_of(dataset, plate)
    if pack is None:
        return [None] * len(stems)
    places = pack.find(stems)
    return [pack.crc32(stem) if place >= 0 else None for stem, place in zip(stems, places, strict=True)]


def check_plate(
    form: Form | None, command: str, dataset: WILDSDataset, task: tuple[Plate, list[int | None]]
) -> Findings:
    """Decode the images of a plate and hold them against the form and checksums they should have."""
    found = Findings()
    plate, crcs = task
    for row, crc in zip(plate.rows, crcs, strict=True):
        try:
            x = read_files(dataset, row)
        except InputError as fault:
            found.problems.append(str(fault))
            continue
        path = image_path(dataset, row)
        own = Form.of(x)
        if form is not None and own.shape != form.shape:
            found.problems.append(
                f"{path} has shape {own.shape}, others have {form.shape}; restore or convert it"
            )
        elif form is not None and own.depth != form.depth:
            found.problems.append(
                f"{path} has {own.bits} bits a pixel, others have {form.bits}; restore or convert it"
            )
        elif crc is not None and zlib.crc32(x.numpy().data) != crc:
            found.problems.append(
                f"{path} is not what was packed; delete {plate.name}.npy of the pack and run "
                f"'{command}' again"
            )
        values = x.flatten(1).numpy()  # of 16 bits torch finds no extremes
        blank = np.flatnonzero(values.min(1) == values.max(1)).tolist()
        found.add(Findings([], Counter(channel + 1 for channel in blank), str(path) if blank else ""))
        if len(blank) < len(x):
            digest = hashlib.blake2b(x.numpy().data, digest_size=16).digest()
            found.rows_of.setdefault(digest, []).append(row)
    return found


def check_arrays(pack: Pack, workers: int, command: str) -> list[str]:
    """Hold every file of a pack, and every image in it, against their checksums."""
    problems: list[str] = []
    check = partial(check_array, math.prod(pack.shape) * pack.depth.itemsize, command)
    tasks = [
        Array(pack.folder / file["name"], file["sha256"], *pack.images_of(number))
        for number, file in enumerate(pack.files)
    ]
    for _, found in each(
        check, None, tasks, workers=workers, n_images=lambda array: len(array.stems), desc=pack.folder.name
    ):
        problems += found
    return problems


class Array(NamedTuple):
    """What the index of a pack says of a file."""

    path: Path
    sha256: str
    stems: list[str]
    crc32: list[int]


def check_array(n_bytes: int, command: str, _: None, array: Array) -> list[str]:
    """What is wrong with one file of a pack, whose images have n_bytes each."""
    again = f"delete {array.path} and run '{command}' again"
    values = np.memmap(array.path, dtype=np.uint8, mode="r")
    start = len(values) - n_bytes * len(array.stems)
    sha = hashlib.sha256(values[:start].data)
    problems = []
    images = values[start:].reshape(-1, n_bytes)
    for stem, crc, image in zip(array.stems, array.crc32, images, strict=True):
        sha.update(image.data)
        if zlib.crc32(image.data) != crc:
            problems.append(f"{array.path} has changed where {stem} is; {again}")
    if sha.hexdigest() != array.sha256 and not problems:
        problems.append(f"{array.path} has changed in its first {start} bytes; {again}")
    return problems
