"""How a simulated screen lies on disk: the same pictures and wells, as RxRx1 or as other screens have them.

Every format names plates, sites and channels in its own way, and says in its own way what the wells hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from abra_wilds.config.data import MARKER
from abra_wilds.data.datasets.layouts import METADATA, STAINS
from abra_wilds.data.reading.planes import zarr_library
from abra_wilds.simulate.config import SimulationConfig, refuse_request

Picture = NDArray[np.unsignedinteger[Any]]  # (C, S, S)
_RELEASE = "RELEASE_v1.0.txt"  # WILDS takes a folder with this file for a complete data set
_PNG_EFFORT = 3
HARMONY = "http://www.perkinelmer.com/PEHH/HarmonyV5"
# Columns of metadata.csv by the names that tables of screens have for them.
COLUMNS = {
    "experiment": "Metadata_Batch",
    "plate": "Metadata_Plate",
    "well": "Metadata_Well",
    "site": "Metadata_Site",
    "cell_type": "Metadata_Cell_Line",
    "sirna": "Metadata_Label",
    "well_type": "Metadata_control_type",
    "dataset": "Metadata_Split",
}


class Place(NamedTuple):
    """Where a site is: experiment, plate from 1, well such as B02, and site from 1."""

    experiment: str
    plate: int
    well: str
    site: int

    @property
    def name(self) -> str:
        """Of the plate, unlike that of any other."""
        return f"{self.experiment}_plate{self.plate}"


class Format(NamedTuple):
    """What writes a site below a screen's folder, and what writes the tables once all are there."""

    write_site: Callable[[Path, Place, Picture, SimulationConfig], None]
    write_tables: Callable[[Path, pd.DataFrame, SimulationConfig], None]


def folder_of(write: str, config: SimulationConfig) -> str:
    """The name of a screen's folder.

    Raises:
        InputError: for an unknown format, or one that cannot hold these pictures.
    """
    if write not in FORMATS:
        refuse_request(f"write is {write!r}; choose one of {', '.join(FORMATS)}")
    if write != "rxrx":
        if write == "omezarr":
            zarr_library()
        return write
    if config.layout == "wilds" and config.depth != 8:
        refuse_request("RxRx1-WILDS has images of 8 bits; for 16 give --layout rxrx1 or another --write")
    return {"wilds": "rxrx1_v1.0", "rxrx1": "rxrx1"}[config.layout]


def _rxrx_site(folder: Path, place: Place, picture: Picture, config: SimulationConfig) -> None:
    """RxRx1-WILDS' image of three stains, or the research release's grey file a stain."""
    stem = _made(folder / "images" / place.experiment / f"Plate{place.plate}") / f"{place.well}_s{place.site}"
    if config.layout == "wilds":
        rgb = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
        rgb.save(stem.with_suffix(".png"), compress_level=_PNG_EFFORT)
        return
    for stain, grey in enumerate(picture, start=1):
        Image.fromarray(grey).save(f"{stem}_w{stain}.png", compress_level=_PNG_EFFORT)


def _rxrx_tables(folder: Path, table: pd.DataFrame, config: SimulationConfig) -> None:
    """Last, as loaders take these files for the sign of a whole data set."""
    table.to_csv(folder / METADATA, index=False)
    if config.layout == "wilds":
        text = f"Simulated by abra_wilds, not RxRx1: see {MARKER}.\n"
        (folder / _RELEASE).write_text(text, encoding="utf-8")


def _load_data_file(place: Place, stain: int) -> tuple[str, str]:
    """The folder and name of a file of the format "loaddata"."""
    return f"images/{place.name}", f"{place.well}_s{place.site}_{STAINS[stain].replace(' ', '')}.tif"


def _load_data_site(folder: Path, place: Place, picture: Picture, config: SimulationConfig) -> None:
    """A compressed TIFF a channel."""
    for stain, grey in zip(config.stains, picture, strict=True):
        below, name = _load_data_file(place, stain)
        _write_tiff(_made(folder / below) / name, grey, compression="zlib", predictor=True)


def _load_data_tables(folder: Path, table: pd.DataFrame, config: SimulationConfig) -> None:
    """CellProfiler's LoadData, with what the wells hold as further columns."""
    rows = _named(table)
    places = list(map(Place, table["experiment"], table["plate"], table["well"], table["site"]))
    for stain in config.stains:
        files = [_load_data_file(place, stain) for place in places]
        rows[f"FileName_Orig{STAINS[stain]}"] = [name for _, name in files]
        rows[f"PathName_Orig{STAINS[stain]}"] = [below for below, _ in files]
    rows.to_csv(folder / "load_data.csv", index=False)


def _phenix_site(folder: Path, place: Place, picture: Picture, config: SimulationConfig) -> None:
    """An uncompressed TIFF a channel, under the name that an Opera Phenix exports."""
    images = _made(folder / place.name / "Images")
    for channel, grey in enumerate(picture, start=1):
        _write_tiff(images / _phenix_file(place, channel), grey)


def _phenix_file(place: Place, channel: int) -> str:
    row, column = ord(place.well[0]) - ord("A") + 1, int(place.well[1:])
    return f"r{row:02}c{column:02}f{place.site:02}p01-ch{channel}sk1fk1fl1.tiff"


def _phenix_tables(folder: Path, table: pd.DataFrame, config: SimulationConfig) -> None:
    """The index of each plate, as Harmony 5 writes it, and what the wells hold."""
    for (experiment, plate), rows in table.groupby(["experiment", "plate"], sort=False):
        places = [Place(experiment, plate, *own) for own in zip(rows["well"], rows["site"], strict=True)]
        root = ElementTree.Element("EvaluationInputData", Version="1", xmlns=HARMONY)
        ElementTree.SubElement(root, "InstrumentType").text = "Phenix"
        about = ElementTree.SubElement(ElementTree.SubElement(root, "Plates"), "Plate")
        ElementTree.SubElement(about, "PlateID").text = places[0].name
        images = ElementTree.SubElement(root, "Images", Version="1")
        for place in places:
            for channel, stain in enumerate(config.stains, start=1):
                image = ElementTree.SubElement(images, "Image", Version="1")
                for name, value in _phenix_image(place, channel, STAINS[stain], config.image_size).items():
                    ElementTree.SubElement(image, name).text = str(value)
        path = folder / places[0].name / "Images" / "Index.idx.xml"
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    _write_platemap(folder, table)


def _phenix_image(place: Place, channel: int, name: str, side: int) -> dict[str, Any]:
    """What an index says of an image."""
    row, column = ord(place.well[0]) - ord("A") + 1, int(place.well[1:])
    return {
        "id": f"{row:02}{column:02}K1F{place.site}P1R{channel}",
        "State": "Ok",
        "URL": _phenix_file(place, channel),
        "Row": row,
        "Col": column,
        "FieldID": place.site,
        "PlaneID": 1,
        "TimepointID": 0,
        "ChannelID": channel,
        "ChannelName": name,
        "ImageSizeX": side,
        "ImageSizeY": side,
    }


def _zarr_site(folder: Path, place: Place, picture: Picture, config: SimulationConfig) -> None:
    """A field of an HCS plate, NGFF 0.4, with one plane (c, z, y, x)."""
    well = f"{place.name}.zarr/{place.well[0]}/{place.well[1:]}"
    group = zarr_library().open_group(str(folder / well / str(place.site - 1)), mode="w", zarr_format=2)
    group.create_array(
        "0",
        data=picture[:, None],
        chunks=(1, 1, *picture.shape[1:]),
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    kinds = {"c": "channel", "z": "space", "y": "space", "x": "space"}
    scale = [{"type": "scale", "scale": [1.0] * 4}]
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": name, "type": kind} for name, kind in kinds.items()],
            "datasets": [{"path": "0", "coordinateTransformations": scale}],
        }
    ]
    group.attrs["omero"] = {"channels": [{"label": STAINS[stain]} for stain in config.stains]}


def _zarr_tables(folder: Path, table: pd.DataFrame, config: SimulationConfig) -> None:
    """The attributes of plates and wells, and what the wells hold beside them."""
    zarr = zarr_library()
    images = [{"path": str(site)} for site in range(config.sites)]
    for (experiment, plate), rows in table.groupby(["experiment", "plate"], sort=False):
        wells = [(well[0], well[1:]) for well in rows["well"].unique()]
        letters, numbers = (sorted(set(names)) for names in zip(*wells, strict=True))
        top = folder / f"{Place(experiment, plate, '', 0).name}.zarr"
        group = partial(zarr.open_group, mode="a", zarr_format=2)
        group(str(top)).attrs["plate"] = {
            "version": "0.4",
            "rows": [{"name": letter} for letter in letters],
            "columns": [{"name": number} for number in numbers],
            "wells": [
                {"path": f"{row}/{at}", "rowIndex": letters.index(row), "columnIndex": numbers.index(at)}
                for row, at in wells
            ],
        }
        for row in letters:
            group(str(top / row))
        for row, at in wells:
            group(str(top / row / at)).attrs["well"] = {"version": "0.4", "images": images}
    _write_platemap(folder, table)


def _write_platemap(folder: Path, table: pd.DataFrame) -> None:
    """What the wells hold, for formats whose images say nothing of it, and the setting that names it."""
    wells = _named(table).drop(columns="Metadata_Site").drop_duplicates()
    wells.to_csv(folder / "platemap.csv", index=False)
    (folder / "screen.yaml").write_text("platemap: platemap.csv\n", encoding="utf-8")


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of metadata.csv as tables of screens call them, plates by names of their own."""
    rows = table[list(COLUMNS)].rename(columns=COLUMNS)
    rows["Metadata_Plate"] = table["experiment"] + "_plate" + table["plate"].astype(str)
    return rows


def _write_tiff(path: Path, grey: Picture, **options: Any) -> None:
    import tifffile

    tifffile.imwrite(path, grey, photometric="minisblack", **options)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


FORMATS: dict[str, Format] = {
    "rxrx": Format(_rxrx_site, _rxrx_tables),
    "loaddata": Format(_load_data_site, _load_data_tables),
    "omezarr": Format(_zarr_site, _zarr_tables),
    "phenix": Format(_phenix_site, _phenix_tables),
}
