"""WILDS data sets, its own and ours, after checks: where WILDS would meet a bare assert, a sentence.

Letters: n rows of a data set, F metadata fields.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.compat.imports import import_wilds
from abra_wilds.compat.writable import handed
from abra_wilds.config.data import MARKER
from abra_wilds.config.datasets import OF_RXRX1, OTHERS, SPLIT_SCHEMES
from abra_wilds.config.screen import DATASET as SCREEN
from abra_wilds.config.screen import ScreenConfig
from abra_wilds.data.datasets.layouts import METADATA, STAINS, absent
from abra_wilds.data.datasets.metadata import check_discarded, class_texts, read_metadata
from abra_wilds.data.datasets.plates import WILDS_FILE, look
from abra_wilds.data.reading.images import Form, read_image
from abra_wilds.data.reading.packed import chosen_pack
from abra_wilds.results.files import sha256
from abra_wilds.types import DataInfo, InputError

if TYPE_CHECKING:
    from wilds.common.grouper import CombinatorialGrouper
    from wilds.datasets.wilds_dataset import WILDSDataset, WILDSSubset

DATASET_NAMES = OF_RXRX1


def load_dataset(
    name: str,
    root_dir: str | Path,
    version: str | None = None,
    split_scheme: str | None = None,
    *,
    data_format: str | None = None,
    packed_size: int = 0,
    screen: ScreenConfig | None = None,
    size: tuple[int, int] | None = None,
) -> WILDSDataset:
    """A WILDS data set, checked before WILDS sees it.

    Args:
        name: "rxrx1" (RxRx1-WILDS, three channels), "rxrx1_6ch" (RxRx1, six), "screen" or one of OTHERS.
        root_dir: the folder that holds `rxrx1_v1.0`, or `rxrx1`; nothing is created or downloaded.
        version: WILDS' version string, None for the newest.
        split_scheme: one of the data set's in `data_config.SPLIT_SCHEMES`, None for its first.
        data_format: "png" reads image files and "packed" a pack; None takes the pack if it is there and
            of the images that are there.
        packed_size: side in pixels of the shrunk pack to read, 0 for images as they are.
        screen: the settings of "screen", which `root_dir` is then none of.
        size: (H, W) to which images that differ in size are resized when they are read; None leaves the
            data set's own.

    Returns:
        The data set, whose attribute `pack` is the pack that `read_image` reads from, or None, and `notes` a
        sentence for each kind of file beside the images that belongs to no row.

    Raises:
        InputError: one sentence that says what came, what is allowed and what to do.
    """
    if name == SCREEN and screen is not None:
        from abra_wilds.data.screens.screen import Screen

        return Screen.open(screen).dataset(data_format=data_format, packed_size=packed_size)
    if name not in (*OF_RXRX1, *OTHERS):
        raise InputError(f"unknown dataset {name!r}; choose one of {', '.join((*OF_RXRX1, *OTHERS))}")
    schemes = SPLIT_SCHEMES[name]
    scheme = schemes[0] if split_scheme is None else split_scheme
    if scheme not in schemes:
        raise InputError(f"unknown split_scheme {scheme!r} of {name}; choose one of {', '.join(schemes)}")
    kind = _dataset_class(name)
    versions = sorted(kind._versions_dict)
    version = versions[-1] if version is None else version
    if version not in versions:
        raise InputError(f"unknown version {version!r} of {name}; choose one of {', '.join(versions)}")
    if name in OTHERS:
        return _other(kind, version, Path(root_dir), scheme, size)
    rows = _wilds_rows(Path(root_dir), version, scheme) if name == "rxrx1" else None
    with nullcontext() if rows is None else handed(rows):
        dataset = kind(version=version, root_dir=str(root_dir), download=False, split_scheme=scheme)
    if name == "rxrx1":
        folder = Path(dataset.data_dir)
        dataset.notes = look(folder, dataset._input_array, WILDS_FILE).notes(folder / METADATA)
    dataset.pack = chosen_pack(dataset, root_dir, data_format, packed_size)
    return dataset


def _dataset_class(name: str) -> type[WILDSDataset]:
    import_wilds()
    from wilds.datasets.rxrx1_dataset import RxRx1Dataset

    from abra_wilds.data.datasets.others import KINDS
    from abra_wilds.data.datasets.rxrx1 import RxRx1SixChannel

    classes: dict[str, type[WILDSDataset]] = {"rxrx1": RxRx1Dataset, "rxrx1_6ch": RxRx1SixChannel, **KINDS}
    return classes[name]


def _other(kind: Any, version: str, root: Path, scheme: str, size: tuple[int, int] | None) -> WILDSDataset:
    """One of WILDS' other image sets, which have no packs."""
    from abra_wilds.data.datasets.others import check_release

    name = kind._dataset_name
    check_release(name, version, root, f"get it with 'abra-wilds fetch {name} {quote(str(root))}'")
    dataset = kind(version=version, root_dir=str(root), download=False, split_scheme=scheme)
    if size is not None and hasattr(dataset, "resized_to"):
        dataset.resized_to = size
    dataset.pack = None
    return dataset


def is_simulated(dataset: WILDSDataset) -> bool:
    """Whether our simulator made the images, which leaves SIMULATED.json beside them or their table."""
    sites = getattr(dataset, "sites", None)
    tables = [] if sites is None else [sites.source.parent]
    return any((folder / MARKER).is_file() for folder in (Path(dataset.data_dir), *tables))


def training_digest(dataset: WILDSDataset, qc: str | None) -> str:
    """Hexadecimal sha256 of what a run trains on: `data_digest`, with the content of the table of --qc.

    Args:
        dataset: from `load_dataset`.
        qc: path of a table that `flags_of` reads; None for none.

    Raises:
        InputError: if that cannot be read.
    """
    digest = data_digest(dataset)
    if qc is None:
        return digest
    try:
        return hashlib.sha256(f"{digest} {sha256(Path(qc))}".encode()).hexdigest()
    except OSError as fault:
        raise InputError(
            f"--qc {qc} cannot be read ({fault.strerror}), and what it flags is part of what this run trains "
            "on; restore it"
        ) from None


def data_digest(dataset: WILDSDataset) -> str:
    """Hexadecimal sha256 of labels and metadata of all images, and of what the simulator left beside them."""
    if hasattr(dataset, "digest"):
        return str(dataset.digest())
    found = hashlib.sha256(dataset.metadata_array.numpy().tobytes())
    marker = Path(dataset.data_dir) / MARKER
    found.update(marker.read_bytes() if marker.is_file() else b"")
    return found.hexdigest()


def described(dataset: WILDSDataset, bio_batch: Sequence[str]) -> dict[str, Any]:
    """What a model trained on a data set knows of it: classes, channels, images and bio-batches.

    Args:
        dataset: from `load_dataset`.
        bio_batch: the metadata fields that define a bio-batch.
    """
    form = Form.of(read_image(dataset, 0))
    C, H, W = form.shape
    n = int(dataset.n_classes)
    return {
        "name": dataset.dataset_name,
        "simulated": is_simulated(dataset),
        "digest": data_digest(dataset),
        "n_classes": n,
        "classes": class_names(dataset, n),
        "channels": channel_names(dataset, C),
        "image_size": [H, W],
        "bit_depth": form.bits,
        "bio_batch_fields": list(bio_batch),
    }


def class_names(dataset: WILDSDataset, n: int) -> list[str]:
    """The name of each class, as the table has it (RxRx1 in its column sirna), or else its number."""
    if hasattr(dataset, "class_names"):
        return list(dataset.class_names)
    path = Path(dataset.data_dir) / METADATA
    names = class_texts(path) if path.is_file() else {}
    return [names.get(k, str(k)) for k in range(n)]


def channel_names(dataset: WILDSDataset, n: int) -> list[str]:
    """The stains in the order of the channels: a screen's and RxRx1's by name, others by number."""
    if hasattr(dataset, "channels"):
        return list(dataset.channels)
    return [STAINS[k] if n <= len(STAINS) else f"channel {k + 1}" for k in range(n)]


def split_subset(dataset: WILDSDataset, split: str, frac: float = 1.0) -> WILDSSubset:
    """A split, or a random share of it in dataset order, with WILDS' meaning of --frac.

    The share is the same for all seeds of a run, so that they can be compared image by image; WILDS draws
    another one for each.

    Args:
        dataset: from `load_dataset`.
        split: a key of `dataset.split_dict`.
        frac: share of the split's rows to keep, in (0, 1].

    Raises:
        InputError: for an unknown split, a share outside (0, 1], or nothing left.
    """
    if split not in dataset.split_dict:
        raise InputError(f"unknown split {split!r}; choose one of {', '.join(dataset.split_dict)}")
    if not 0 < frac <= 1:
        raise InputError(f"frac is the share of a split to keep and must lie in (0, 1]; got {frac}")
    rows = np.flatnonzero(dataset.split_array == dataset.split_dict[split])
    if frac < 1:
        kept = int(np.round(len(rows) * frac))
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:kept])
    if not len(rows):
        raise InputError(
            f"split {split!r} has no image with frac={frac}; choose another split or raise --frac"
        )
    return subset_of(dataset, rows)


def subset_of(dataset: WILDSDataset, rows: NDArray[np.int64]) -> WILDSSubset:
    """Some rows of a data set, whose images stay as they are."""
    from wilds.datasets.wilds_dataset import WILDSSubset

    return WILDSSubset(dataset, rows, transform=None)


def make_grouper(dataset: WILDSDataset, fields: Sequence[str]) -> CombinatorialGrouper:
    """WILDS' grouper over metadata fields; which combination of them is one bio-batch.

    Fields are put into the data set's order: WILDS numbers groups in that order but names them in the order
    given.

    Args:
        dataset: the whole data set, not a subset.
        fields: such as ("experiment", "plate").

    Raises:
        InputError: for no field, an unknown one, or numbers with so many gaps that groups would fill memory.
    """
    known = list(dataset.metadata_fields)
    unknown = [field for field in fields if field not in known]
    if unknown or not fields:
        raise InputError(f"groupby_fields got {list(fields)}; give one or more of {', '.join(known)}")
    ordered = sorted(set(fields), key=known.index)
    if hasattr(dataset, "grouper"):
        return dataset.grouper(ordered)
    from wilds.common.grouper import CombinatorialGrouper

    with warnings.catch_warnings():
        # Plates count from 1, so the groups of plate 0 are empty, as in every published WILDS run.
        warnings.filterwarnings("ignore", message="Minimum metadata value")
        grouper = CombinatorialGrouper(dataset, ordered)
    _check_gaps(dataset, grouper)
    return grouper


def _check_gaps(dataset: WILDSDataset, grouper: CombinatorialGrouper) -> None:
    """Refuse a grouper almost all of whose groups are empty: each is columns of a csv and rows of tables."""
    sizes = grouper.cardinality.tolist()  # WILDS' own product of them may have overflowed
    groups, present = math.prod(sizes), len(grouper.metadata_to_group(dataset.metadata_array).unique())
    # Any two fields of RxRx1 give at most 6.8 groups for one that is filled (1.25 by experiment and plate),
    # and a thousand cost nothing however few are filled; a row of ten thousand takes seconds to write.
    if groups > 1000 + 10 * present:
        reach = ", ".join(
            f"{field} to {size - 1}" for field, size in zip(grouper.groupby_fields, sizes, strict=True)
        )
        raise InputError(
            f"bio-batches by numbers that go up to {reach} would be {groups:,}, of which {present:,} have "
            "images; number the plates of each experiment from 1, in the column plate and in the names of "
            "their folders, or group by fewer fields"
        )


def data_info(
    dataset: WILDSDataset,
    train_subset: WILDSSubset,
    grouper: CombinatorialGrouper,
    channels: int | None = None,
) -> DataInfo:
    """What a method may know of the data.

    Args:
        dataset: from `load_dataset`.
        train_subset: its training split.
        grouper: defines the bio-batches.
        channels: of an image; None reads the first of the training split.
    """
    groups = grouper.metadata_to_group(train_subset.metadata_array).numpy()
    present = np.unique(groups)
    O, C = int(dataset.n_classes), channels or len(read_image(dataset, int(train_subset.indices[0])))
    return DataInfo(
        n_classes=O,
        in_channels=C,
        n_groups=int(grouper.n_groups),
        train_groups=tuple(present.tolist()),
        classes=tuple(class_names(dataset, O)),
        channels=tuple(channel_names(dataset, C)),
        cell_lines=lines_of(dataset, train_subset, groups),
    )


def lines_of(dataset: WILDSDataset, subset: WILDSSubset, groups: NDArray[np.int64]) -> tuple[int, ...]:
    """The cell line of each bio-batch of a subset, ascending; empty where none is known, or some mix them.

    Args:
        dataset: of the subset.
        subset: its images, N.
        groups: (N,) their bio-batches.
    """
    fields = list(dataset.metadata_fields)
    if "cell_type" not in fields:
        return ()
    lines = subset.metadata_array[:, fields.index("cell_type")].numpy()
    pairs = np.unique(np.stack([groups, lines], 1), axis=0)  # (bio-batch, line)
    return tuple(pairs[:, 1].tolist()) if len(pairs) == len(np.unique(groups)) else ()


def _wilds_rows(root: Path, version: str, split_scheme: str) -> pd.DataFrame:
    """The rows of RxRx1-WILDS; refused is what WILDS would start to download or meet with an assert."""
    make = (
        f"get it with 'abra-wilds fetch rxrx1 {quote(str(root))}', or make a simulated one with "
        f"'abra-wilds simulate {quote(str(root))}'"
    )
    folder = root / f"rxrx1_v{version}"
    if not (folder / METADATA).is_file():
        raise absent([folder], METADATA, make)
    release = folder / f"RELEASE_v{version}.txt"
    if not release.is_file():
        raise InputError(
            f"{folder} holds no {release.name}, by which WILDS knows a complete data set; {make}"
        )
    rows = read_metadata(folder / METADATA)
    if split_scheme == "mixed-to-test":
        check_discarded(rows, folder / METADATA)
    return rows
