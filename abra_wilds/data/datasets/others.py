"""Other image sets of WILDS: Camelyon17, iWildCam and FMoW, with what is asked here of a data set.

Metadata, splits and evaluation are WILDS' own. Added are names of classes and channels, where each image
lies, and checks, so that a sentence comes where WILDS would meet an assert or a KeyError. Importing this
module imports WILDS.

Letters: n rows of a data set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from abra_wilds.compat.imports import import_wilds
from abra_wilds.data.datasets.layouts import absent
from abra_wilds.data.datasets.metadata import refuse_wrong
from abra_wilds.data.datasets.tables import read_table
from abra_wilds.errors import InputError

import_wilds()  # WILDS loads only after what it misses has been supplied, in a worker process too
_LIMIT = Image.MAX_IMAGE_PIXELS

from wilds.datasets.camelyon17_dataset import Camelyon17Dataset  # noqa: E402
from wilds.datasets.fmow_dataset import FMoWDataset  # noqa: E402
from wilds.datasets.fmow_dataset import categories as FMOW_CLASSES  # noqa: E402
from wilds.datasets.iwildcam_dataset import IWildCamDataset  # noqa: E402

Image.MAX_IMAGE_PIXELS = _LIMIT  # which WILDS' FMoW lifts for every image of the process

COLOURS = ("red", "green", "blue")
IWILDCAM_SPLITS = ("train", "val", "test", "id_val", "id_test")


class Camelyon17(Camelyon17Dataset):  # type: ignore[misc]
    """Camelyon17-WILDS: patches of lymph nodes from five hospitals (Bandi et al. 2018)."""

    channels = COLOURS
    well_kinds = None
    class_names = ("normal", "tumour")
    table = "metadata.csv"

    @staticmethod
    def check(folder: Path) -> None:
        """Raise where the table is not one that WILDS reads.

        Raises:
            InputError: with the first wrong line.
        """
        path = folder / Camelyon17.table
        numbers = {"tumor": 1, "split": 3, "center": None, "slide": None, "x_coord": None, "y_coord": None}
        rows = read_table(path, ["patient", "node", *numbers])
        for name, most in numbers.items():
            check_numbers(rows[name], path, most)
        if pd.to_numeric(rows["center"]).max() > 4:
            raise InputError(f"{path} has more than the 5 hospitals that WILDS splits by; restore the file")


class IWildCam(IWildCamDataset):  # type: ignore[misc]
    """iWildCam2020-WILDS: camera traps (Beery et al. 2020); images differ in size and are resized when read.

    Attributes:
        resized_to: (height, width) of an image, bilinear as WILDS' transform resizes it.
    """

    channels = COLOURS
    well_kinds = None
    table = "metadata.csv"
    resized_to = (448, 448)

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        names = self.data_dir / "categories.csv"
        rows = read_table(names, ["y", "name"]) if names.is_file() else None
        known = {} if rows is None else dict(zip(rows["y"], rows["name"], strict=True))
        self.class_names = tuple(known.get(str(k), str(k)) for k in range(self.n_classes))

    @staticmethod
    def check(folder: Path) -> None:
        """Raise where the table is not one that WILDS reads.

        Raises:
            InputError: with the first wrong line, or a number that is left out.
        """
        path, dense = folder / IWildCam.table, ("y", "location_remapped", "sequence_remapped")
        rows = read_table(path, ["filename", "split", "datetime", *dense])
        for name in dense:
            check_numbers(rows[name], path)
            present = set(pd.to_numeric(rows[name]).astype(int))
            if gone := set(range(max(present))) - present:
                raise InputError(
                    f"{path} has no row with {name} {min(gone)}, and WILDS needs every number; restore it"
                )
        wrong = ~rows["split"].isin(IWILDCAM_SPLITS).to_numpy()
        refuse_wrong(rows["split"], path, wrong, f"one of {', '.join(IWILDCAM_SPLITS)}")

    def files_of(self, idx: int) -> list[str]:
        """The file of a row's image."""
        return [str(self.data_dir / "train" / self._input_array[idx])]

    def get_input(self, idx: int) -> Image.Image:
        """The image of a row, in `resized_to`."""
        with Image.open(self.files_of(idx)[0]) as image:
            return image.convert("RGB").resize(self.resized_to[::-1], Image.Resampling.BILINEAR)


class FMoW(FMoWDataset):  # type: ignore[misc]
    """FMoW-WILDS: land use from space, by year and region (Christie et al. 2018)."""

    channels = COLOURS
    well_kinds = None
    class_names = tuple(FMOW_CLASSES)
    table = "rgb_metadata.csv"

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._input_array = [f"images/rgb_img_{k}.png" for k in self.full_idxs]

    @staticmethod
    def check(folder: Path) -> None:
        """Raise where the tables are not those that WILDS reads.

        Raises:
            InputError: with the first wrong line.
        """
        path = folder / FMoW.table
        rows = read_table(path, ["split", "category", "country_code", "timestamp"])
        read_table(folder / "country_code_mapping.csv", ["alpha-3", "region"])
        wrong = ~rows["category"].isin(FMOW_CLASSES).to_numpy()
        refuse_wrong(rows["category"], path, wrong, f"one of FMoW's {len(FMOW_CLASSES)} categories")
        wrong = (
            pd.to_datetime(rows["timestamp"], errors="coerce", utc=True, format="ISO8601").isna().to_numpy()
        )
        refuse_wrong(rows["timestamp"], path, wrong, "a time such as 2014-07-08T10:10:19Z")


KINDS: dict[str, Any] = {"camelyon17": Camelyon17, "iwildcam": IWildCam, "fmow": FMoW}


def check_release(name: str, version: str, root: Path, make: str) -> None:
    """Raise unless a release of one of KINDS is in its folder, as WILDS reads it.

    Args:
        name: of the data set.
        version: WILDS' version string.
        root: the folder above it.
        make: how to get it.

    Raises:
        InputError: if it is not there or not whole, or its tables are damaged.
    """
    folder, kind = root / f"{name}_v{version}", KINDS[name]
    if not (folder / kind.table).is_file():
        raise absent([folder], kind.table, make)
    if not (folder / f"RELEASE_v{version}.txt").is_file():
        raise InputError(
            f"{folder} holds no RELEASE_v{version}.txt, by which WILDS knows a complete data set; {make}"
        )
    kind.check(folder)


def check_numbers(column: pd.Series[Any], path: Path, most: int | None = None) -> None:
    """Refuse a column of texts that are not all whole numbers from 0 to `most`.

    Raises:
        InputError: with the first wrong line.
    """
    # Of a split or a slide WILDS' tables may say 1.0.
    number = pd.to_numeric(column, errors="coerce")
    wrong = ~((number >= 0) & (number % 1 == 0) & (number <= (2**31 if most is None else most)))
    refuse_wrong(
        column, path, wrong.to_numpy(), f"a whole number from 0{'' if most is None else f' to {most}'}"
    )
