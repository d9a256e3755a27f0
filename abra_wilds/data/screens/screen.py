"""A screen, opened: which kind of table or folder it is, its sites, and what its columns mean."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abra_wilds.config.files import screen_config
from abra_wilds.config.screen import FILE, ScreenConfig
from abra_wilds.data.datasets.layouts import FOLDERS, METADATA
from abra_wilds.data.datasets.layouts import TABLES as COMPETITION
from abra_wilds.data.reading.packed import chosen_pack
from abra_wilds.data.screens.columns import KNOWN, with_columns
from abra_wilds.data.screens.load_data import read_load_data
from abra_wilds.data.screens.ome_zarr import find_plates, read_plates
from abra_wilds.data.screens.patterns import read_folder
from abra_wilds.data.screens.platemaps import join_platemap
from abra_wilds.data.screens.rxrx import read_rxrx
from abra_wilds.data.screens.sites import Sites, check_sites
from abra_wilds.data.screens.tables import is_table
from abra_wilds.errors import InputError

if TYPE_CHECKING:
    from abra_wilds.data.screens.dataset import ScreenDataset

# Of a folder without a screen.yaml that names one, the first of these that is there.
TABLES = (
    "load_data_with_illum.parquet",
    "load_data_with_illum.csv",
    "load_data.parquet",
    "load_data.csv",
)


@dataclass(frozen=True)
class Screen:
    """The sites of a screen and its settings, every column named; no image is open.

    Attributes:
        sites: with the channels that are read.
        config: the resolved settings.
        notes: a sentence for whatever is not used.

    >>> Screen.open("../shared/real/lincs").sites.channels  # doctest: +SKIP
    ('1', '2', '3', '4', '5')
    """

    sites: Sites
    config: ScreenConfig
    notes: tuple[str, ...] = ()

    @classmethod
    def open(
        cls, screen: str | Path | ScreenConfig, *, optional: Collection[str] = (), **flags: Any
    ) -> Screen:
        """The screen at a table or folder, with the settings of the screen.yaml beside it.

        Args:
            screen: the path, or all settings.
            optional: names of settings whose column the table may lack.
            flags: settings that go before those of screen.yaml.

        Raises:
            InputError: for whatever of it cannot be used.
        """
        config = screen if isinstance(screen, ScreenConfig) else screen_config(screen, flags)
        found = find_sites(config)
        own = config.own_channels
        read = [found.channel(name) for name in own.values()]
        ignored = [name for name in found.channels if own and name not in read]
        notes = [f"channels of the screen that are not read: {', '.join(ignored)}"] if ignored else []
        sites = check_sites(found.picked(own))
        if config.platemap is not None:
            plate, well = (_first(config, sites, field) for field in ("plate_column", "well_column"))
            path, partial = Path(config.platemap), config.allow_unmatched
            sites, unmatched = join_platemap(sites, path, plate, well, partial=partial)
            notes += unmatched
        resolved = with_columns(config, list(sites.rows), sites.source, optional)
        for field in optional:
            given = getattr(config, field)
            if given not in (None, getattr(resolved, field)):
                notes.append(f"{sites.source} has no column {given}, which {FILE} names as {field}")
        return cls(sites, resolved, tuple(notes))

    def dataset(
        self,
        classes: Sequence[str] | None = None,
        *,
        labelled: bool = True,
        data_format: str | None = "png",
        packed_size: int = 0,
    ) -> ScreenDataset:
        """The screen as a WILDS data set.

        Args:
            classes: names of the classes in the order of a model's outputs; None for those of the labels.
            labelled: whether classes and splits are needed, as to train.
            data_format: "png" for image files of any kind, "packed", or None for a pack where one is there.
            packed_size: side of the shrunk pack to read, or 0.

        Raises:
            InputError: as `ScreenDataset`, or for a pack that cannot be used.
        """
        from abra_wilds.data.screens.dataset import ScreenDataset

        dataset = ScreenDataset(self.sites, self.config, classes, labelled=labelled, notes=self.notes)
        dataset.pack = chosen_pack(dataset, str(self.config.screen), data_format, packed_size)
        return dataset


def _first(config: ScreenConfig, sites: Sites, field: str) -> str:
    """The column of plates or wells, before a platemap adds others."""
    columns = list(sites.rows)
    known = [name for name in (getattr(config, field), *KNOWN[field]) if name in columns]
    return known[0] if known else str(getattr(with_columns(config, columns, sites.source), field))


def find_sites(config: ScreenConfig) -> Sites:
    """The sites of a screen of any kind.

    Raises:
        InputError: if there is none.
    """
    path = Path(os.path.abspath(str(config.screen)))
    if path.is_file() and is_table(path):
        return read_load_data(path, config.roots).of_plane(config.plane)
    if not path.is_dir():
        raise InputError(
            f"--screen {path} is {'no table' if path.exists() else 'not there'}; give a csv or parquet table "
            "of images, or a folder of one, of an OME-Zarr plate, or of images"
        )
    if config.pattern is None:
        tables = [path / name for name in TABLES if (path / name).is_file()]
        if tables:
            return read_load_data(tables[0], config.roots).of_plane(config.plane)
        folders = (path, *(path / name for name in FOLDERS))
        if any((folder / name).is_file() for folder in folders for name in (METADATA, COMPETITION[0])):
            return read_rxrx(path)
        if find_plates(path):
            return read_plates(path, config.plane)
    return read_folder(path, config.pattern, config.plane)
