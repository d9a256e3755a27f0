"""`abra-wilds pack`: write a data set's images as one array for each experiment's plate; `packed` reads them.

A plate is written under a temporary name and renamed when its bytes are on the disk; a table beside it says
that it is whole, and `index.json`, which comes last, that all are. A second start keeps what is whole and of
the image files as they are, so that an interrupted one loses only the plates it was at.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abra_wilds.compat.imports import import_wilds
from abra_wilds.config.screen import DATASET as SCREEN
from abra_wilds.config.screen import FILE as SCREEN_FILE
from abra_wilds.config.screen import screen_folder
from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.datasets.layouts import find_folder
from abra_wilds.data.reading.facts import table_digests
from abra_wilds.data.reading.images import Form, check_images, read_files
from abra_wilds.data.reading.pack_plate import (
    Plan,
    Plate,
    kept_table,
    plates_of,
    read_plate_table,
    write_plate,
)
from abra_wilds.data.reading.packed import FORMAT, INDEX, pack_folder
from abra_wilds.data.screens.screen import Screen
from abra_wilds.errors import InputError
from abra_wilds.pools import check_workers, each
from abra_wilds.results.files import write_text
from abra_wilds.results.lock import FOREVER, hold

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset

# Of tables and index, an image: its name and checksum, twice.
_TABLE_BYTES = 160
_HEADER_BYTES = 128
LOCK = ".pack.lock"


def from_files(name: str, root: str | Path, flags: Mapping[str, Any] | None = None) -> WILDSDataset:
    """A data set that is read from its image files, with the split scheme that every one of its kind has.

    Args:
        name: of the data set.
        root: that holds its folder; of a screen its table or folder.
        flags: of a screen.
    """
    if name == SCREEN:
        return Screen.open(root, **(flags or {})).dataset(labelled=False)
    return load_dataset(name, root, split_scheme="official", data_format="png")


def found_name(root: Path) -> str:
    """The name of the only data set below a root_dir; a table, or a folder with a screen.yaml, is a screen.

    Raises:
        InputError: if there is none, or both.
    """
    if root.is_file() or (screen_folder(root) / SCREEN_FILE).is_file():
        return SCREEN
    found = ["rxrx1"] if (root / "rxrx1_v1.0").is_dir() else []
    try:
        find_folder(root)
        found.append("rxrx1_6ch")
    except InputError as fault:
        if not found:
            raise InputError(
                f"{root} holds no rxrx1_v1.0, and of six channels {fault}; a screen of your own is read by "
                "--dataset screen"
            ) from fault
    if len(found) > 1:
        raise InputError(f"{root} holds {' and '.join(found)}; choose one of them with --dataset")
    return found[0]


def pack(dataset: WILDSDataset, *, size: int = 0, workers: int = 1) -> Path:
    """Pack a data set, or go on where an earlier start was interrupted; waits for another that is at it.

    Args:
        dataset: from `from_files`.
        size: pixels a side to shrink images to; 0 packs them as they are.
        workers: processes that decode.

    Returns:
        The folder of the pack.

    Raises:
        InputError: for images that are missing, damaged or not alike, too little disk, or a size that would
            not shrink. Plates that are packed by then are kept for the next start.
    """
    check_workers(workers)
    if size < 0:
        raise InputError(f"size is {size}; give the pixels a side of a shrunk image, or leave it out")
    with pack_lock(Path(dataset.data_dir)):
        return pack_alone(dataset, size, workers)


@contextmanager
def pack_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from packing what lies in a folder until this one has ended, in whatever way."""
    with ExitStack() as stack:
        try:
            if not stack.enter_context(hold(folder / LOCK)):
                print(f"another process is packing {folder}; waiting for it", file=sys.stderr)
                stack.enter_context(hold(folder / LOCK, FOREVER))
        except InputError:  # a file system without locks, such as some network ones
            print(f"{folder} cannot be locked; pack it by one command at a time", file=sys.stderr)
        yield


def pack_alone(dataset: WILDSDataset, size: int, workers: int) -> Path:
    """What `pack` does once no other process does it."""
    digests = table_digests(dataset)
    folder = pack_folder(dataset.data_dir, size)
    # Of a start that was killed.
    for left_over in folder.glob(".*.tmp"):
        left_over.unlink()
    plates = plates_of(dataset)
    tables = {plate.name: kept_table(dataset, plate, folder) for plate in plates}
    todo = [plate for plate in plates if tables[plate.name] is None]
    if todo:
        check_images(dataset, [row for plate in todo for row in plate.rows])
        plan = Plan(folder, Form.of(read_files(dataset, todo[0].rows[0])), size)
        check_plan(plan, todo, [table for table in tables.values() if table is not None])
        try:
            folder.mkdir(exist_ok=True)
        except OSError as fault:
            raise InputError(
                f"{folder} cannot be made ({fault.strerror}); make {folder.parent} writable"
            ) from fault
        # From here on the pack is not whole, whatever it was before.
        (folder / INDEX).unlink(missing_ok=True)
        write_plates(dataset, plan, todo, workers)
        tables |= {plate.name: read_plate_table(folder, plate.name) for plate in todo}
    write_index(dataset, folder, tables, digests)
    return folder


def check_plan(plan: Plan, todo: Sequence[Plate], kept: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what cannot be packed, before the first byte is written.

    Raises:
        InputError: for a size that would not shrink, kept plates of another shape, or too little disk.
    """
    _, H, W = plan.form.shape
    if plan.size and (H != W or plan.size >= H):
        raise InputError(
            f"size is {plan.size} and images are {H} x {W}; square images are shrunk and none is enlarged, "
            "so give fewer pixels a side or leave --size out"
        )
    # Plates that were packed from images of another size, before the files were replaced.
    kinds = {(tuple(table["shape"][1:]), table.get("dtype", "uint8")) for table in kept}
    for shape, depth in kinds - {(plan.packed, plan.depth)}:
        here, there = (shape, plan.packed) if shape != plan.packed else (depth, plan.depth)
        raise InputError(
            f"{plan.folder} holds images of {here} and {todo[0].name} has {there} (channels, height, width; "
            f"or depth); restore its images, or delete {plan.folder} if all images changed"
        )
    n = sum(len(plate.rows) for plate in todo)
    need = n * (math.prod(plan.packed) * plan.form.depth.itemsize + _TABLE_BYTES) + len(todo) * _HEADER_BYTES
    free = shutil.disk_usage(plan.folder.parent).free
    if need > free:
        raise InputError(
            f"packing {n:,} images needs {need / 1e9:.2f} GB and {plan.folder.parent} has "
            f"{free / 1e9:.2f} GB free; free some, or pack smaller images with --size"
        )


def write_plates(dataset: WILDSDataset, plan: Plan, todo: Sequence[Plate], workers: int) -> None:
    """Pack plates in parallel; those with an image that cannot be packed are left out, and named at the end.

    Raises:
        InputError: with how many images cannot be packed, and what is wrong with the first.
    """
    write = partial(write_plate, plan)
    faults: list[str] = []
    written = each(
        write,
        dataset,
        todo,
        workers=workers,
        n_images=lambda plate: len(plate.rows),
        desc="pack",
        ready=import_wilds,
    )
    for _, found in written:
        faults += found
    if faults:
        raise InputError(
            f"{len(faults):,} images cannot be packed, the first: {min(faults)}; then start again, which "
            "keeps the plates that are packed"
        )


def write_index(
    dataset: WILDSDataset,
    folder: Path,
    tables: Mapping[str, Mapping[str, Any] | None],
    digests: Mapping[str, str],
) -> None:
    """Write index.json, which makes the pack whole.

    Args:
        dataset: that is packed.
        folder: of the pack.
        tables: of the plates, by name.
        digests: of the data set's tables, from the start.

    Raises:
        InputError: if a plate has gone meanwhile.
    """
    files = []
    for name, table in tables.items():
        if table is None:
            raise InputError(f"{folder / name}.npy was removed while the others were packed; start again")
        files.append({"name": f"{name}.npy", **table})
    index = {
        "format": FORMAT,
        "dataset": dataset.dataset_name,
        "suffixes": files[0]["suffixes"],
        "shape": files[0]["shape"][1:],
        "filter": files[0]["filter"],
        **({"dtype": files[0]["dtype"]} if "dtype" in files[0] else {}),
        "tables": digests,
        "files": files,
    }
    write_text(folder / INDEX, json.dumps(index))
