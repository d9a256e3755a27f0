"""A screen as a WILDS data set: bio-batches, plates, wells and classes by their names.

Importing this module imports WILDS.

Letters: n rows, C channels, H W of an image, F metadata fields, T classes that are treatments.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from abra_wilds.compat.imports import import_wilds
from abra_wilds.config.schema import canonical
from abra_wilds.config.screen import DATASET, ScreenConfig, screen_folder
from abra_wilds.data.datasets.controls import treatment_classes
from abra_wilds.data.datasets.rxrx1 import ByCellLine
from abra_wilds.data.datasets.splits import SPLIT_NUMBERS
from abra_wilds.data.reading.packed import Pack
from abra_wilds.data.reading.planes import read_site
from abra_wilds.data.screens.columns import Names, names_of
from abra_wilds.data.screens.sites import Sites, file_of
from abra_wilds.data.screens.splits import NONE, NUMBERS, split_numbers
from abra_wilds.errors import InputError

import_wilds()  # WILDS loads only after what it misses has been supplied, in a worker process too

from wilds.common.grouper import CombinatorialGrouper, Grouper  # noqa: E402
from wilds.datasets.wilds_dataset import WILDSDataset  # noqa: E402

MOST_PLATES = 64  # of which an image is read before anything starts
FIELDS = ("cell_type", "experiment", "plate", "well", "site")


class ScreenDataset(ByCellLine):
    """Any screen, whose bio-batches WILDS' fields call experiments.

    Every row is there, whatever its split: rows without a class, and those that no split takes, have none.

    Args:
        sites: with the channels that are read.
        config: from `with_columns`.
        classes: (O) names of the classes, in the order of a model's outputs; None for those of the labels.
        labelled: whether there must be classes and splits, as to train.

    Attributes:
        sites: those of the screen; `sites.rows` has every column of its table.
        config: the resolved settings.
        class_names: (O) the name of each class.
        channels: (C) the name of each channel.
        notes: a sentence for everything that is not used, or differs from what one would expect.
        well_kinds: (n,) the kind of each row's well, one of WELL_TYPES; None if nothing says it.
        controls: (n,) bool, which rows show control wells; None if nothing says it.
        treatments: (T,) int64, the classes that are treatments; None if that is not known. There is no such
            attribute where a well shows several classes, and no scores of wells then.
        pack: that images are read from, or None.

    Raises:
        InputError: for columns that cannot be used, or, where labelled, missing classes and splits.
    """

    _dataset_name = DATASET
    _versions_dict = {"1.0": {"download_url": None, "compressed_size": None}}  # noqa: RUF012

    def __init__(
        self,
        sites: Sites,
        config: ScreenConfig,
        classes: Sequence[str] | None = None,
        *,
        labelled: bool = True,
        notes: Sequence[str] = (),
    ):
        self._version, self._split_scheme = "1.0", DATASET
        self.sites, self.config, self.channels = sites, config, sites.channels
        self.pack: Pack | None = None
        self.notes = list(notes)
        self._data_dir = Path(os.path.abspath(screen_folder(str(config.screen))))
        self._input_array = _stems(sites, f"{self._data_dir.as_posix()}/")
        self._order = np.argsort(self._input_array)
        self._digest = ""
        names = names_of(sites, config)
        split = split_numbers(sites, config, names)
        if labelled:
            _require_training(sites, config, names, split)
        self.class_names, labels, split = self._used(names, split, classes)
        self._split_array = split
        self._split_dict = {split: number for split, (number, _) in SPLIT_NUMBERS.items()}
        self._split_names = {split: name for split, (_, name) in SPLIT_NUMBERS.items()}
        self._y_array, self._y_size, self._n_classes = torch.from_numpy(labels), 1, len(self.class_names)
        self.well_kinds = names.kind
        self.controls = None if names.kind is None else names.kind != "treatment"
        self._number(names, labels)
        if _one_class_a_well(self._metadata_array):
            found = treatment_classes(self.controls, labels)
            self.treatments = None if found is None else torch.from_numpy(found[found >= 0])
        super().__init__(str(self._data_dir), False, DATASET)
        # Only now: WILDS' own check insists on a split called val.
        for name in ("val", "test", "id_test"):
            if not (self._split_array == NUMBERS[name]).any():
                del self._split_dict[name], self._split_names[name]

    def _number(self, names: Names, labels: NDArray[np.int64]) -> None:
        """Fields as numbers, and the text of each number, in order of first appearance as in WILDS."""
        texts = (names.cell_line, names.bio_batch, names.plate, names.well, names.site)
        found = {field: pd.factorize(text) for field, text in zip(FIELDS, texts, strict=True)}
        self._metadata_map = {field: list(text) for field, (_, text) in found.items()}
        columns = [*(codes for codes, _ in found.values()), labels]
        self._metadata_array = torch.from_numpy(np.stack(columns, axis=1).astype(np.int64))
        self._metadata_fields = [*FIELDS, "y"]
        self._eval_grouper = CombinatorialGrouper(self, ["cell_type"])

    def _used(
        self, names: Names, split: NDArray[np.int64] | None, classes: Sequence[str] | None
    ) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
        """Names of classes, the class of each row, (n,), and its split, NONE where it is not used."""
        label = np.full(len(self.sites), "", dtype=object) if names.label is None else names.label
        split = np.full(len(label), NONE, dtype=np.int64) if split is None else split.copy()
        unknown = label == ""
        if names.label is not None and unknown.any():
            self._note(unknown, "have no class in column " + str(self.config.label_column))
        split[unknown] = NONE
        least = self.config.least_per_class
        if classes is None:
            found, counts = np.unique(label[(split == NUMBERS["train"])], return_counts=True)
            known = set(found[counts >= least]) if least else set(label) - {""}
            rare = ~unknown & ~np.isin(label, list(known))
            if rare.any():
                named = ", ".join(sorted(set(label[rare]))[:10])
                self._note(rare, f"are of classes with fewer than {least} training images ({named})")
            split[rare] = NONE
            classes = sorted(known)
        number: dict[Any, int] = {name: k for k, name in enumerate(classes)}
        labels = np.array([number.get(text, -1) for text in label], dtype=np.int64)
        self._drop_small(names, split)
        return list(classes), labels, split

    def _drop_small(self, names: Names, split: NDArray[np.int64]) -> None:
        """Take bio-batches with too few images out of training."""
        least, training = self.config.least_per_bio_batch, split == NUMBERS["train"]
        codes = pd.factorize(names.bio_batch)[0]
        small = training & (np.bincount(codes[training], minlength=codes.max() + 1)[codes] < least)
        if small.any():
            self._note(small, f"are of training bio-batches with fewer than {least} images")
        split[small] = NONE

    def _note(self, rows: NDArray[np.bool_], why: str) -> None:
        self.notes.append(
            f"{int(rows.sum()):,} of {len(rows):,} images {why}; they are neither trained on nor scored"
        )

    def get_input(self, idx: int) -> Tensor:
        """The channels of a row, (C, H, W) uint8 or uint16, in the order of `channels`.

        Raises:
            InputError: as `read_site`.
        """
        light = None if self.sites.illumination is None else self.sites.illumination[idx].tolist()
        return read_site(self.sites.references[idx].tolist(), light, self.config.image_size)

    def files_of(self, idx: int) -> list[str]:
        """The files that the image of a row is read from, or folders of zarr arrays; its own come first."""
        light = [] if self.sites.illumination is None else self.sites.illumination[idx].tolist()
        named = [*self.sites.references[idx].tolist(), *filter(None, light)]
        return [str(file_of(reference)) for reference in named]

    def place_of(self, idx: int, k: int) -> str:
        """Which channel of which row the k-th of `files_of` belongs to, for messages."""
        C = len(self.channels)
        what = f"channel {self.channels[k]}" if k < C else "an illumination function"
        return f"{what} in {self.sites.where(int(idx))}"

    def one_a_plate(self, rows: Sequence[int] | NDArray[np.int64]) -> list[int]:
        """The first of some rows on each plate, of MOST_PLATES at most, in their order."""
        own = np.asarray(rows)
        first = np.sort(np.unique(self._metadata_array[own, 2].numpy(), return_index=True)[1])
        return [int(own[part[0]]) for part in np.array_split(first, min(len(first), MOST_PLATES))]

    def rows_named(self, stems: Sequence[str]) -> list[int]:
        """The row of each name in `_input_array`, or -1."""
        wanted = np.array(list(map(str, stems)))
        places = np.searchsorted(self._input_array, wanted, sorter=self._order)
        rows = self._order[np.minimum(places, len(self) - 1)]
        found: list[int] = np.where(self._input_array[rows] == wanted, rows, -1).tolist()
        return found

    def table_digests(self) -> dict[str, str]:
        """What a pack must have been made by: images go by their paths, so that no table matters to it."""
        parts: dict[str, Any] = {"--channels": list(self.config.own_channels.values()) or self.channels}
        parts |= {"--image_size": self.config.image_size, "illumination": self.sites.illumination is not None}
        return {name: canonical({name: value}) for name, value in parts.items()}

    def grouper(self, fields: Sequence[str]) -> Grouper:
        """The bio-batches by these fields, numbered without gaps."""
        return PresentGrouper(self, fields)

    def digest(self) -> str:
        """Hexadecimal sha256 of everything but pixels and places: columns, names of files, settings."""
        if self._digest:
            return self._digest
        found = hashlib.sha256()
        local = ("screen", "image_root", "platemap")
        settings = {name: value for name, value in vars(self.config).items() if name not in local}
        found.update(canonical({**settings, "classes": self.class_names, "channels": self.channels}).encode())
        names = [[file_of(text).name for text in row] for row in self.sites.references.tolist()]
        table = [list(map(str, self.sites.rows)), *self.sites.rows.to_numpy().tolist(), *names]
        found.update(canonical({"table": table}).encode())
        found.update(np.ascontiguousarray(self._split_array).tobytes())
        self._digest = found.hexdigest()
        return self._digest


class PresentGrouper(Grouper):  # type: ignore[misc]
    """The combinations of fields that a screen has, numbered without gaps and named as WILDS names groups.

    WILDS numbers all combinations of all values; plates of different bio-batches have different names, so
    that most of those would be empty.

    Args:
        dataset: the whole data set.
        fields: of its metadata, in its order.
    """

    def __init__(self, dataset: WILDSDataset, fields: Sequence[str]):
        self.groupby_fields = list(fields)
        self._at = [list(dataset.metadata_fields).index(field) for field in fields]
        columns = dataset.metadata_array[:, self._at]
        self._factors = torch.cumprod(torch.tensor([1, *(columns.max(0).values + 1).tolist()]), 0)[:-1]
        self._present = torch.unique(columns @ self._factors)
        self._n_groups = len(self._present)
        rows = np.unique((columns @ self._factors).numpy(), return_index=True)[1]
        maps = dataset.metadata_map
        self._names = [
            ", ".join(
                f"{field} = {maps[field][code] if field in maps else code}"
                for field, code in zip(fields, columns[row].tolist(), strict=True)
            )
            for row in rows.tolist()
        ]

    def metadata_to_group(self, metadata: Tensor, return_counts: bool = False) -> Any:
        """The group of each row, (n,), and where asked for the size of each group."""
        groups = torch.searchsorted(self._present, metadata[:, self._at].long() @ self._factors)
        return (groups, torch.bincount(groups, minlength=self._n_groups)) if return_counts else groups

    def group_str(self, group: int) -> str:
        """The name of a group."""
        return self._names[int(group)]

    def group_field_str(self, group: int) -> str:
        """The name of a group as WILDS writes it into csv files."""
        return self.group_str(group).replace("=", ":").replace(",", "_").replace(" ", "")


def _stems(sites: Sites, top: str) -> NDArray[np.str_]:
    """A name for the image of each row, (n,): its first channel's reference, below the screen's folder."""
    return np.array([text.removeprefix(top) for text in sites.references[:, 0].tolist()])


def _one_class_a_well(metadata: Tensor) -> bool:
    wells = torch.unique(metadata[:, 1:4], dim=0)
    return len(torch.unique(metadata[:, [1, 2, 3, 5]], dim=0)) == len(wells)


def _require_training(
    sites: Sites, config: ScreenConfig, names: Names, split: NDArray[np.int64] | None
) -> None:
    """Refuse to train on a screen that does not say what and on which images."""
    columns = ", ".join(map(str, sites.rows))
    if names.label is None:
        raise InputError(
            f"{sites.source} has no column of classes that is known; name it by --label_column, of {columns}"
        )
    if split is None:
        raise InputError(
            f"nothing says which images of {sites.source} train and test; draw them by --split test=0.2 "
            f"val=0.1, or name a column by --split_column, of {columns}"
        )
    if not (split == NUMBERS["train"]).any():
        raise InputError(f"no image of {sites.source} is marked as train; mark some, or give --split")
