"""RxRx1 with all six stains, as a WILDS data set beside WILDS' own three-channel one.

It reads the layout of the research release (https://www.rxrx.ai/rxrx1), which `abra-wilds simulate --layout
rxrx1` writes too: metadata.csv with one row a site, and six grey files a site,
images/<experiment>/Plate<plate>/<well>_s<site>_w<stain>.png. Classes, metadata fields, groups and evaluation
are those of WILDS' RxRx1; the input and the split schemes differ. Importing this module imports WILDS.

Letters: n rows of the data set, C = 6 stains, H W of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from abra_wilds.compat import import_wilds
from abra_wilds.data.metadata import read_metadata
from abra_wilds.data.wilds_data import checked_folder, unreadable_file
from abra_wilds.errors import InputError

import_wilds()  # WILDS loads only after what it misses has been supplied, in a worker process too

from wilds.common.grouper import CombinatorialGrouper  # noqa: E402
from wilds.common.metrics.all_metrics import Accuracy  # noqa: E402
from wilds.datasets.wilds_dataset import WILDSDataset  # noqa: E402

STAINS = ("Hoechst", "ConA", "phalloidin", "SYTO 14", "MitoTracker", "WGA")
# The name WILDS would give the folder, and the one in the release's archives.
FOLDERS = ("rxrx1_6ch_v1.0", "rxrx1")
# Split -> its id, which is WILDS' for its own four splits, and its name in logs.
SPLITS = {
    "train": (0, "Train"),
    "val": (1, "Validation (OOD)"),
    "test": (2, "Test (OOD)"),
    "id_test": (3, "Test (ID)"),
}


class RxRx1SixChannel(WILDSDataset):  # type: ignore[misc]
    """RxRx1: six stains of 512 x 512, 1,139 siRNAs, 51 experiments of four cell lines (Taylor et al. 2019).

    Args:
        version: "1.0" or None, which are the same.
        root_dir: the folder that holds the data set's, `rxrx1_6ch_v1.0` or `rxrx1`.
        download: must be false; WILDS' signature.
        split_scheme: "wilds" or "official"; see `split_array`.

    Attributes:
        suffixes: what follows an entry of `_input_array` in the names of its files, stain by stain.

    Raises:
        InputError: if the folder or its metadata.csv cannot be used, or has no such splits.
    """

    _dataset_name = "rxrx1_6ch"
    _versions_dict = {"1.0": {"download_url": None, "compressed_size": None}}  # noqa: RUF012
    suffixes = tuple(f"_w{number}.png" for number in range(1, len(STAINS) + 1))

    def __init__(
        self,
        version: str | None = None,
        root_dir: str | Path = "data",
        download: bool = False,
        split_scheme: str = "wilds",
    ):
        if download:
            raise InputError("rxrx1_6ch is not downloaded; get metadata.csv and images from rxrx.ai/rxrx1")
        self._version = version or "1.0"
        self._split_scheme = split_scheme
        self._data_dir = find_folder(Path(root_dir))
        path = self._data_dir / "metadata.csv"
        rows = read_metadata(path)
        self._split_array = split_array(rows, split_scheme, path)
        self._split_dict = {split: number for split, (number, _) in SPLITS.items()}
        self._split_names = {split: name for split, (_, name) in SPLITS.items()}
        self._input_array = file_stems(rows)
        self._y_array = torch.tensor(rows["sirna_id"].to_numpy())
        self._y_size = 1
        self._n_classes = int(rows["sirna_id"].max()) + 1
        codes, self._metadata_map = coded(rows, ("cell_type", "experiment", "well"))
        columns = [codes["cell_type"], codes["experiment"], rows["plate"], codes["well"], rows["site"]]
        self._metadata_array = torch.tensor(np.stack([*columns, rows["sirna_id"]], axis=1))
        self._metadata_fields = ["cell_type", "experiment", "plate", "well", "site", "y"]
        self._eval_grouper = CombinatorialGrouper(self, ["cell_type"])
        super().__init__(root_dir, download, split_scheme)
        # Only now: WILDS' own check insists on a split called val.
        for split in absent_splits(split_scheme):
            del self._split_dict[split], self._split_names[split]

    def get_input(self, idx: int) -> Tensor:
        """The six stains of a row, (6, H, W) uint8, in the order of STAINS.

        Raises:
            InputError: as `read_stains`.
        """
        return read_stains([self._data_dir / f"{self._input_array[idx]}{end}" for end in self.suffixes])

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


def find_folder(root: Path) -> Path:
    """The first of FOLDERS below a root_dir that holds a metadata.csv.

    Raises:
        InputError: if there is none.
    """
    make = (
        f"make a simulated one with 'abra-wilds simulate {root} --layout rxrx1', or unpack metadata.csv and "
        f"images of the research release (rxrx.ai/rxrx1) into {root / FOLDERS[-1]}"
    )
    return checked_folder([root / name for name in FOLDERS], make)


def split_array(rows: pd.DataFrame, scheme: str, path: Path) -> NDArray[np.int64]:
    """The split of each row, (n,), as the ids of SPLITS.

    "official" is the research release's and the ABRA paper's Table 1: 33 training and 18 test experiments,
    both sites, and no validation; rows marked val count as test, from which WILDS took them. "wilds" is that
    of RxRx1-WILDS: site 1 of the training experiments is train and site 2 id_test, and of the other
    experiments one a cell line is val (`val_rows`) and the rest test.

    Args:
        rows: from `read_metadata`.
        scheme: "wilds" or "official".
        path: of the metadata, for messages.

    Raises:
        InputError: for another scheme, or rows without a validation.
    """
    training = (rows["dataset"] == "train").to_numpy()
    if scheme == "official":
        return np.where(training, SPLITS["train"][0], SPLITS["test"][0])
    if scheme != "wilds":
        raise InputError(f"unknown split_scheme {scheme!r}; choose one of wilds, official")
    split = np.where(val_rows(rows, path), SPLITS["val"][0], SPLITS["test"][0])
    split[training] = SPLITS["train"][0]
    split[training & (rows["site"] == 2).to_numpy()] = SPLITS["id_test"][0]
    return split


def absent_splits(scheme: str) -> tuple[str, ...]:
    """The members of SPLITS that a scheme does not have."""
    return ("val", "id_test") if scheme == "official" else ()


def val_rows(rows: pd.DataFrame, path: Path) -> NDArray[np.bool_]:
    """Whether a row is of RxRx1-WILDS' validation, (n,).

    Rows marked val are. The research release marks none: its test experiments are numbered behind the
    training experiments of their line, and WILDS' validation is the first of each line, HEPG2-08, HUVEC-17,
    RPE-08 and U2OS-04. WILDS' package does not name them; they have its 9,854 images (2,462 + 3 x 2,464), a
    public listing of its groups has the experiments 7, 27, 42 and 49 of 0 to 50, and the 2019 competition's
    public leaderboard was counted on them.

    Raises:
        InputError: if nothing is marked and the only test experiment of a line would have to be both.
    """
    marked: NDArray[np.bool_] = (rows["dataset"] == "val").to_numpy()
    if marked.any():
        return marked
    tests = rows.loc[rows["dataset"] == "test", ["cell_type", "experiment"]].drop_duplicates()
    by_line = tests.groupby("cell_type")["experiment"]
    single = [str(line) for line, named in by_line if len(named) < 2]
    if tests.empty or single:
        found = f"only one of {', '.join(single)}" if single else "no test experiment"
        raise InputError(
            f"{path} marks no row as val, so that split_scheme 'wilds' takes the first of two or more test "
            f"experiments of each cell line, and it has {found}; mark val in its column dataset or use "
            "--split_scheme official"
        )
    first: NDArray[np.bool_] = rows["experiment"].isin(by_line.min()).to_numpy()
    return first


def file_stems(rows: pd.DataFrame) -> NDArray[np.object_]:
    """The names of each row's files below the data set's folder, (n,), without stain and ending."""
    plate, site = rows["plate"].astype(str), rows["site"].astype(str)
    stems = "images/" + rows["experiment"] + "/Plate" + plate + "/" + rows["well"] + "_s" + site
    return np.array(stems.tolist(), dtype=object)


def coded(
    rows: pd.DataFrame, columns: Sequence[str]
) -> tuple[dict[str, NDArray[np.int64]], dict[str, list[Any]]]:
    """Columns of text as numbers, and the text of each number, in order of first appearance as in WILDS."""
    pairs = {column: pd.factorize(rows[column]) for column in columns}
    return {c: codes for c, (codes, _) in pairs.items()}, {c: list(texts) for c, (_, texts) in pairs.items()}


def read_stains(paths: Sequence[Path]) -> Tensor:
    """One site from the files of its stains, (C, H, W) uint8 in their order.

    Raises:
        InputError: with the file that is missing, damaged, not 8-bit grey, or of another size than the first.
    """
    stains = [read_stain(path) for path in paths]
    for path, stain in zip(paths, stains, strict=True):
        if stain.shape != stains[0].shape:
            size, first = (" x ".join(map(str, s.shape)) for s in (stain, stains[0]))
            raise InputError(
                f"{path} is {size} pixels and {paths[0]} is {first}; the stains of a site must be alike, so "
                "restore or convert it"
            )
    return torch.stack(stains)


def read_stain(path: Path) -> Tensor:
    """One stain, (H, W) uint8.

    Raises:
        InputError: if the file is missing, damaged, or not 8-bit grey.
    """
    try:
        with Image.open(path) as image:
            mode, grey = image.mode, np.array(image)
    # As in `read_image`: a damaged file is answered with many kinds of exception.
    except Exception as fault:
        raise unreadable_file(path, fault) from fault
    if mode != "L":
        raise InputError(f"{path} has pixels of mode {mode}, and a stain is 8-bit grey; convert it to that")
    return torch.from_numpy(grey)
