"""`predict` and `embed` with --by_plate: a screen of any number of plates, a file for each.

Images of one unit are held at a time; of all others there is the screen's table alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from abra_wilds.analysis.answers.answers import answers_of
from abra_wilds.analysis.answers.embed import FLAGGED, LEVELS, nearest_of, sites_and_wells
from abra_wilds.analysis.answers.predict import (
    about_answers,
    say,
    scores_of,
    site_and_well_tables,
)
from abra_wilds.analysis.answers.screens import (
    Flags,
    flags_for,
    look_for_images,
    metadata_table,
    open_screen,
    plan_of_screen,
    prefixed,
    size_note,
    well_columns,
)
from abra_wilds.analysis.answers.shared import SharedFolder, Writers
from abra_wilds.analysis.answers.tables import SITE_COUNT, counted_in_wells, wells_of_screen
from abra_wilds.analysis.answers.units import Unit, in_turn, part_of, unit_of, units_of
from abra_wilds.analysis.profiles import well_means, write_profiles
from abra_wilds.data.reading.images import check_images, read_image
from abra_wilds.dist import is_main, rank, world
from abra_wilds.engine.artifacts.logs import no_bar
from abra_wilds.engine.models.model import Model
from abra_wilds.results.files import atomic_write, csv_text
from abra_wilds.tta.features import check_embeds
from abra_wilds.tta.plan import check_plans

if TYPE_CHECKING:
    from abra_wilds.data.screens.dataset import ScreenDataset

CSV_SITES = 100_000  # a screen up to this size gets csv of the whole without being asked
CERTIFICATES = "certificates"
# Columns that are no text and no float64; where a plate has none of it, a type would not show.
WHOLE = (SITE_COUNT, "Statistics_Images", "Flagged_Sites", FLAGGED)
TRUTH = ("Calibrated", "Bio_Batch_Trusted")
TEXT = ("Metadata_", "Predicted", "Adaptation", "Bio_Batch_Advice", "Nearest")


def predict_by_plate(
    model: Model,
    screen: str | Path,
    flags: Mapping[str, Any],
    out: Path,
    scored: bool = True,
    qc: Path | None = None,
    csv: bool = False,
) -> bool:
    """Predict a screen plate by plate into a folder that several processes fill; returns whether it is full.

    Below it `sites/` and `wells/` have a parquet file a plate, or a bio-batch where --tta_group is
    experiment; at the end come config.json's scores, certificates.csv, and csv files of small screens.

    Args:
        model: of these channels.
        screen: its table or folder.
        flags: settings of the screen.
        out: the folder.
        scored: whether labels are read where there are some.
        qc: as of `predict_screen`.
        csv: whether to write csv files of large screens too.

    Raises:
        InputError: if the screen does not fit the model, or the folder holds something else.
    """
    e = model.config.eval
    dataset = open_screen(model, screen, flags, scored, there=False)
    quality = flags_for(dataset, qc, e)
    alike = columns_of_wells(dataset, quality)
    tables = [*([CERTIFICATES] if e.needs_components else []), "wells", "sites"]
    about = {**about_answers(model, dataset, qc), "command": "predict", "labels": scored}
    folder = begun(model, dataset, out, tables, about, quality)

    def make(unit: Unit) -> Writers:
        part, flagged = part_there(dataset, unit), None if quality is None else quality[unit.rows]
        found = answers_of(model, part, e, unit.name, flagged)
        made = site_and_well_tables(model, part, found, e, flagged)
        differing = [name for name in made["wells"] if name.startswith("Metadata_") and name not in alike]
        made["wells"] = made["wells"].drop(columns=differing)
        writers = {name: partial(write_typed, table=table) for name, table in made.items()}
        if found.certificates:
            rows = pd.DataFrame([asdict(row) for row in found.certificates])
            writers[CERTIFICATES] = partial(write_typed, table=rows)
        return writers

    def conclude() -> dict[str, Any]:
        for name in tables:
            if name == CERTIFICATES or csv or len(dataset) <= CSV_SITES:
                write_csv_of(folder, name)
        return scores_of(dataset, {name: labels_and_answers(folder, name, dataset) for name in tables[-2:]})

    return share(model, folder, make, conclude)


def embed_by_plate(
    model: Model,
    screen: str | Path,
    flags: Mapping[str, Any],
    out: Path,
    *,
    levels: Sequence[str] = tuple(LEVELS),
    qc: Path | None = None,
    csv: bool = False,
) -> None:
    """Write the features of a screen plate by plate, as `predict_by_plate` does; `nearest/` goes with them.

    Args:
        model: of these channels.
        screen: its table or folder.
        flags: settings of the screen.
        out: the folder.
        levels: which of LEVELS.
        qc: as of `embed_screen`.
        csv: whether to write the nearest classes of a large screen as csv too.

    Raises:
        InputError: if the screen does not fit the model, or the folder holds something else.
    """
    e = model.config.eval
    check_embeds(e.tta)
    dataset = open_screen(model, screen, flags, scored=False, there=False)
    quality = flags_for(dataset, qc, e)
    alike = columns_of_wells(dataset, quality)
    tables = [*(["nearest"] if model.centroids is not None else []), *(LEVELS[n] for n in reversed(levels))]
    about = {**about_answers(model, dataset, qc), "command": "embed", "levels": sorted(levels)}
    folder = begun(model, dataset, out, tables, about, quality)

    def make(unit: Unit) -> Writers:
        part, flagged = part_there(dataset, unit), None if quality is None else quality[unit.rows]
        features = answers_of(model, part, e, unit.name, flagged).features.numpy()
        metadata, well, wells = sites_and_wells(part, flagged)
        wells = wells[[name for name in wells if name in (*alike, FLAGGED)]]
        means = well_means(features, well, counted_in_wells(well, flagged))
        profiles = {"site": (features, metadata), "well": (means, wells)}
        writers: dict[str, Callable[[Path], None]] = {}
        for level in levels:
            x, table = profiles[level]
            about_level = {**folder.about, "level": level}
            writers[LEVELS[level]] = partial(write_profiles, features=x, table=table, about=about_level)
        if model.centroids is not None:
            writers["nearest"] = partial(write_typed, table=nearest_of(model, means, wells))
        return writers

    def conclude() -> dict[str, Any]:
        if model.centroids is not None and (csv or len(dataset) <= CSV_SITES):
            write_csv_of(folder, "nearest")
        return {}

    share(model, folder, make, conclude)


def columns_of_wells(dataset: ScreenDataset, quality: Flags | None) -> frozenset[str]:
    """The metadata that the sites of every well of a screen share, so that all plates have one schema."""
    return frozenset(wells_of_screen(metadata_table(dataset, quality), well_columns(dataset))[1])


def begun(
    model: Model,
    dataset: ScreenDataset,
    out: Path,
    tables: Sequence[str],
    about: Mapping[str, Any],
    quality: Flags | None,
) -> SharedFolder:
    """The folder, said what it is of; the first command looks for every image, and later ones for their own.

    Raises:
        InputError: if it holds something else, an image is missing, or nothing could be adapted.
    """
    e, units = model.config.eval, units_of(dataset, model.config.eval)
    if e.tta != "none":
        check_plans({"the screen": plan_of_screen(dataset, e, model.config.data.batch_size, quality)}, e)
    folder = SharedFolder(out, {**about, "by": unit_of(e)}, tables, units)
    lines = list(dataset.notes)

    def look() -> None:
        look_for_images(dataset)
        lines.extend(size_note(model, read_image(dataset, 0).shape))

    folder.begin(look)
    if unit_of(e) == "experiment":
        lines.append(
            f"a bio-batch is adapted to whole: each of {len(units):,} has a file, and starts over whole"
        )
    if is_main():
        say(lines)
    return folder


def part_there(dataset: ScreenDataset, unit: Unit) -> ScreenDataset:
    """The part of a screen that a unit is.

    Raises:
        InputError: if an image of it is missing.
    """
    part = part_of(dataset, unit.rows)
    check_images(part, range(len(part)))
    return part


def share(
    model: Model,
    folder: SharedFolder,
    make: Callable[[Unit], Writers],
    conclude: Callable[[], Mapping[str, Any]],
) -> bool:
    """Fill a folder together with whoever else does, and say how far it is; returns whether all is there."""
    folder.fill(in_turn(folder.units, rank(), world()), make, no_bar(model.config.train))
    n = len(folder.units)
    if folder.conclude(conclude):
        say([f"wrote {folder.out}: {n:,} of {n:,} parts"])
        return True
    left = len(folder.left())
    say([f"{folder.out}: {left:,} of {n:,} parts are left to other processes; the same command goes on"])
    return False


def write_typed(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet, its types by the names of columns: a plate may have no value of some."""
    known = {**dict.fromkeys(WHOLE, pa.int64()), **dict.fromkeys(TRUTH, pa.bool_())}
    types = {
        name: known.get(name) or (pa.string() if name.startswith(TEXT) else None) for name in map(str, table)
    }
    found = pa.Table.from_pandas(table, preserve_index=False)
    fields = [field.with_type(types[field.name] or field.type) for field in found.schema]
    fields = [field.with_type(pa.float64()) if pa.types.is_null(field.type) else field for field in fields]
    with atomic_write(path) as temporary:
        pq.write_table(found.cast(pa.schema(fields)), temporary)


def write_csv_of(folder: SharedFolder, name: str) -> None:
    """Write a table of all units as csv, a unit at a time."""
    with (
        atomic_write(folder.out / f"{name}.csv") as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        for unit in folder.units:
            if (path := folder.file_of(name, unit)).exists():
                text = csv_text(pq.read_table(path).to_pylist())
                file.write(text if file.tell() == 0 else text.partition("\n")[2])


def labels_and_answers(folder: SharedFolder, name: str, dataset: ScreenDataset) -> pd.DataFrame:
    """The columns of a table that scores are made of, over all units."""
    found = []
    for unit in folder.units:
        file = pq.ParquetFile(folder.file_of(name, unit))
        wanted = {"Predicted", prefixed(str(dataset.config.label_column))}
        found.append(file.read([n for n in file.schema_arrow.names if n in wanted]).to_pandas())
    return pd.concat(found, ignore_index=True)
