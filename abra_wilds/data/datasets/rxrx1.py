"""RxRx1 with all six stains, as a WILDS data set beside WILDS' own three-channel one; or a screen like it.

Where rows and images lie is found by `layouts`, and who trains and tests is decided by `splits`. Classes,
metadata fields, groups and evaluation are those of WILDS' RxRx1; the input and the split schemes differ.
Importing this module imports WILDS.

Letters: n rows of the data set, C stains (6 in RxRx1), H W of an image, T classes that are treatments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from abra_wilds.compat.imports import import_wilds
from abra_wilds.data.datasets.controls import known_kinds, treatment_classes
from abra_wilds.data.datasets.layouts import find_layout
from abra_wilds.data.datasets.splits import SPLIT_NUMBERS, split_array
from abra_wilds.data.reading.planes import read_site
from abra_wilds.errors import InputError

import_wilds()  # WILDS loads only after what it misses has been supplied, in a worker process too

from wilds.common.grouper import CombinatorialGrouper  # noqa: E402
from wilds.common.metrics.all_metrics import Accuracy  # noqa: E402
from wilds.datasets.wilds_dataset import WILDSDataset  # noqa: E402


class ByCellLine(WILDSDataset):  # type: ignore[misc]
    """A data set that is evaluated as WILDS' RxRx1 is; its `_eval_grouper` groups by cell line."""

    def eval(
        self,
        y_pred: Tensor,
        y_true: Tensor,
        metadata: Tensor,
        prediction_fn: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[dict[str, Any], str]:
        """Accuracy over images and over each cell line's, under the names of WILDS' RxRx1.

        Args:
            y_pred: (n,) class ids, or what `prediction_fn` makes class ids of.
            y_true: (n,) class ids.
            metadata: (n, F) rows of `metadata_array`.
            prediction_fn: see y_pred.
        """
        metric = Accuracy(prediction_fn=prediction_fn)
        results: tuple[dict[str, Any], str] = self.standard_group_eval(
            metric, self._eval_grouper, y_pred, y_true, metadata
        )
        return results


class RxRx1SixChannel(ByCellLine):
    """RxRx1: six stains of 512 x 512, 1,139 siRNAs, 51 experiments of four cell lines (Taylor et al. 2019).

    A screen of one's own with the same columns may have any number of stains, classes, plates and sites.

    Args:
        version: "1.0" or None, which are the same.
        root_dir: the folder that holds the data set's, `rxrx1_6ch_v1.0` or `rxrx1`, or is it.
        download: must be false; WILDS' signature.
        split_scheme: "wilds", "official" or "heldout"; see `split_array`.

    Attributes:
        suffixes: what follows an entry of `_input_array` in the names of its files, stain by stain.
        notes: a sentence for each kind of file beside the images that belongs to no row.
        well_kinds: (n,) the kind of each row's well, one of WELL_TYPES; None if nothing says it.
        controls: (n,) bool, which rows show control wells; None if nothing says it.
        treatments: (T,) int64, the classes that are treatments; None if that is not known.

    Raises:
        InputError: if the folder or its tables cannot be used, or have no such splits.
    """

    _dataset_name = "rxrx1_6ch"
    _versions_dict = {"1.0": {"download_url": None, "compressed_size": None}}  # noqa: RUF012

    def __init__(
        self,
        version: str | None = None,
        root_dir: str | Path = "data",
        download: bool = False,
        split_scheme: str = "wilds",
    ):
        if download:
            command = f"abra-wilds fetch rxrx1_6ch {quote(str(root_dir))}"
            raise InputError(f"rxrx1_6ch is not downloaded here; get it with '{command}'")
        self._version = version or "1.0"
        self._split_scheme = split_scheme
        layout = find_layout(Path(root_dir))
        rows, self._data_dir = layout.rows, layout.folder
        self._input_array, self.suffixes, self.notes = layout.stems, layout.suffixes, layout.notes
        self._split_array = split_array(rows, split_scheme, layout.table)
        self._split_dict = {split: number for split, (number, _) in SPLIT_NUMBERS.items()}
        self._split_names = {split: name for split, (_, name) in SPLIT_NUMBERS.items()}
        labels = rows["sirna_id"].to_numpy()
        self._y_array, self._y_size = torch.tensor(labels), 1
        self._n_classes = int(labels.max()) + 1
        self.well_kinds = known_kinds(rows.get("well_type"), labels, self._n_classes, layout.table)
        self.controls = None if self.well_kinds is None else self.well_kinds != "treatment"
        treatments = treatment_classes(self.controls, labels)
        self.treatments = None if treatments is None else torch.tensor(treatments)
        codes, self._metadata_map = coded(rows, ("cell_type", "experiment", "well"))
        columns = [codes["cell_type"], codes["experiment"], rows["plate"], codes["well"], rows["site"]]
        self._metadata_array = torch.tensor(np.stack([*columns, labels], axis=1))
        self._metadata_fields = ["cell_type", "experiment", "plate", "well", "site", "y"]
        self._eval_grouper = CombinatorialGrouper(self, ["cell_type"])
        super().__init__(root_dir, download, split_scheme)
        # Only now: WILDS' own check insists on a split called val.
        for split in ("val", "id_test"):
            if not (self._split_array == self._split_dict[split]).any():
                del self._split_dict[split], self._split_names[split]

    def get_input(self, idx: int) -> Tensor:
        """The stains of a row, (C, H, W) uint8 or uint16, by their numbers: in RxRx1 in the order of STAINS.

        Raises:
            InputError: as `read_site`.
        """
        return read_site([f"{self._data_dir / self._input_array[idx]}{end}" for end in self.suffixes])


def coded(
    rows: pd.DataFrame, columns: Sequence[str]
) -> tuple[dict[str, NDArray[np.int64]], dict[str, list[Any]]]:
    """Columns of text as numbers, and the text of each number, in order of first appearance as in WILDS."""
    pairs = {column: pd.factorize(rows[column]) for column in columns}
    return {c: codes for c, (codes, _) in pairs.items()}, {c: list(texts) for c, (_, texts) in pairs.items()}
