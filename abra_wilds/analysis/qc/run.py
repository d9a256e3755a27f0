"""Measure every site of a data set, plate by plate, and write down which are not to be trusted.

A plate whose sites are all measured is kept in OUT/plates and never read again.

Letters: n sites, P plates, C channels, M measures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abra_wilds.analysis.qc.judge import LIMITS, judge_plates, judge_sites, nuclear_channel
from abra_wilds.analysis.qc.measures import F64, MEASURES, measure
from abra_wilds.compat.imports import import_wilds
from abra_wilds.data.datasets.catalogue import channel_names, data_digest
from abra_wilds.data.datasets.quality import FLAG, OF_PLATE, SITE, site_names
from abra_wilds.data.reading.images import check_images, read_image
from abra_wilds.data.reading.pack_plate import Plate, plates_of
from abra_wilds.errors import InputError
from abra_wilds.pools import each
from abra_wilds.results.files import atomic_write, csv_text, make_out, write_text

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset

VERSION = 1  # of the measures; another one measures again
SITES_A_TASK = 16
WELL = SITE[:2]

Task = tuple[int, int, tuple[int, ...]]  # plate, place of its first site there, rows


@dataclass(frozen=True)
class Quality:
    """What was measured, and what follows from it.

    Attributes:
        sites: (n rows) batch, plate, well and site, and the reasons not to trust it, "" for none.
        plates: (P rows) batch, plate, and the reasons not to trust all of it, "" for none.
        plate: (n,) the number of each site's plate.
        channels: (C) names.
        nuclear: which of them shows nuclei.
        measures: (n, C, M).
        stain: (P, C) each plate's contrast over the median of the others'.
    """

    sites: pd.DataFrame
    plates: pd.DataFrame
    plate: NDArray[np.int64]
    channels: tuple[str, ...]
    nuclear: int
    measures: F64
    stain: F64

    def wells(self) -> pd.DataFrame:
        """Wells with a flagged site: batch, plate, well, sites, how many are flagged, and why."""
        own = self.sites.assign(flagged=self.sites["reasons"] != "")
        wells = own.groupby(["Metadata_Batch", *WELL], sort=False, as_index=False).agg(
            sites=("flagged", "size"), flagged=("flagged", "sum"), why=("reasons", _together)
        )
        return wells[wells["flagged"] > 0].reset_index(drop=True)


def check_quality(dataset: WILDSDataset, out: Path, *, workers: int, nuclear: str | None = None) -> Quality:
    """Measure what is not yet measured, judge all of it, and write qc.csv and qc_plates.csv.

    Args:
        dataset: from `load_dataset`.
        out: a folder.
        workers: processes.
        nuclear: name of the channel that shows nuclei; None finds it.

    Raises:
        InputError: for images that cannot be read, or a folder that holds measures of something else.
    """
    check_images(dataset, range(len(dataset)))
    first = read_image(dataset, 0)
    channels = tuple(channel_names(dataset, len(first)))
    if nuclear is not None and nuclear not in channels:
        raise InputError(f"--nuclear {nuclear!r} is no channel; choose among {', '.join(channels)}")
    if min(first.shape[1:]) < 16:
        raise InputError(f"images are {tuple(first.shape[1:])} pixels; focus needs 16 a side or more")
    _claim(out, {"version": VERSION, "data": data_digest(dataset), "image": list(first.shape)})
    plates = plates_of(dataset)
    measures = np.empty((len(dataset), len(channels), len(MEASURES)))
    for number, found in _measured(dataset, plates, out / "plates", workers, measures.shape[1:]):
        measures[list(plates[number].rows)] = found
    at = channels.index(nuclear) if nuclear is not None else nuclear_channel(channels)
    quality = judged(site_names(dataset), measures, channels, at)
    write_tables(quality, out)
    return quality


def judged(names: pd.DataFrame, measures: F64, channels: Sequence[str], nuclear: int) -> Quality:
    """What measures say of sites and plates.

    Args:
        names: (n rows) of `site_names`.
        measures: (n, C, M).
        channels: (C) names.
        nuclear: which of them shows nuclei.
    """
    keys = ["Metadata_Batch", "Metadata_Plate"]
    plate = names.groupby(keys, sort=False).ngroup().to_numpy()
    plates = names[keys].drop_duplicates(ignore_index=True)
    batch = plates.groupby("Metadata_Batch", sort=False).ngroup().to_numpy()
    own = judge_sites(measures, plate, channels, nuclear)
    cells = np.array(["empty" not in reasons for reasons in own])
    stains, stain = judge_plates(measures, plate, batch, channels, cells)
    flagged = np.array([len(reasons) > 0 for reasons in own])
    n, bad = np.bincount(plate), np.bincount(plate, flagged)
    most = [
        [f"{b:.0f} of {a} sites flagged"] if b > LIMITS.plate * a else [] for a, b in zip(n, bad, strict=True)
    ]
    whole = ["; ".join([*a, *b]) for a, b in zip(stains, most, strict=True)]
    all_reasons = [[*r, *(f"{OF_PLATE}{s}" for s in stains[p])] for r, p in zip(own, plate, strict=True)]
    sites = names.assign(
        **{FLAG: ["; ".join(r) for r in all_reasons], "reasons": ["; ".join(r) for r in own]}
    )
    return Quality(sites, plates.assign(**{FLAG: whole}), plate, tuple(channels), nuclear, measures, stain)


def write_tables(quality: Quality, out: Path) -> None:
    """Write qc.csv and qc.parquet by site, and qc_plates.csv by plate."""
    columns = [f"{name.capitalize()}_{channel}" for channel in quality.channels for name in MEASURES]
    values = pd.DataFrame(quality.measures.reshape(len(quality.sites), -1), columns=columns)
    sites = quality.sites.drop(columns="reasons").reset_index(drop=True)
    table = pd.concat([sites, values], axis=1)
    write_text(out / "qc.csv", csv_text(table.to_dict("records")))
    with atomic_write(out / "qc.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    flagged = quality.sites["reasons"] != ""
    wells = quality.sites.groupby(quality.plate)["Metadata_Well"].nunique()
    medians = values.groupby(quality.plate).median()
    stain = pd.DataFrame(quality.stain, columns=[f"Stain_{channel}" for channel in quality.channels])
    counts = pd.DataFrame(
        {
            "Wells": wells,
            "Sites": np.bincount(quality.plate),
            "Flagged_Sites": np.bincount(quality.plate, flagged),
            "Reasons": quality.sites["reasons"].groupby(quality.plate).agg(_together),
        }
    ).astype({"Flagged_Sites": int})
    rows = pd.concat([quality.plates, counts, stain, medians], axis=1)
    write_text(out / "qc_plates.csv", csv_text(rows.to_dict("records")))


def _together(reasons: pd.Series[Any]) -> str:
    """How often each reason occurs, the most frequent first."""
    single = pd.Series([reason for text in reasons if text for reason in text.split("; ")], dtype=object)
    return ", ".join(f"{reason} {n}" for reason, n in single.value_counts().items())


def _claim(out: Path, about: dict[str, Any]) -> None:
    """Make the folder, or see that what it keeps was measured of the same images.

    Raises:
        InputError: otherwise.
    """
    make_out(out / "plates")
    path = out / "plates" / "about.json"
    text = json.dumps(about)
    if not path.is_file():
        write_text(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise InputError(
            f"--out {out} keeps measures of another data set, image size or version; give another folder"
        )


def _measured(
    dataset: WILDSDataset, plates: Sequence[Plate], folder: Path, workers: int, shape: tuple[int, ...]
) -> Iterator[tuple[int, F64]]:
    """The number of each plate with the measures of its sites, (sites, C, M), kept ones first."""
    tasks: list[Task] = []
    parts: dict[int, F64] = {}
    left: dict[int, int] = {}
    for number, plate in enumerate(plates):
        kept = _kept(folder / f"{plate.name}.npy", (len(plate.rows), *shape))
        if kept is not None:
            yield number, kept
            continue
        parts[number], left[number] = np.empty((len(plate.rows), *shape)), len(plate.rows)
        starts = range(0, len(plate.rows), SITES_A_TASK)
        tasks += [(number, start, plate.rows[start : start + SITES_A_TASK]) for start in starts]
    done = each(
        measure_rows,
        dataset,
        tasks,
        workers=workers,
        n_images=lambda task: len(task[2]),
        desc="qc",
        ready=import_wilds,
    )
    for (number, start, rows), found in done:
        parts[number][start : start + len(rows)] = found
        left[number] -= len(rows)
        if not left[number]:
            whole = parts.pop(number)
            with (
                atomic_write(folder / f"{plates[number].name}.npy") as temporary,
                temporary.open("wb") as file,
            ):
                np.save(file, whole)
            yield number, whole


def measure_rows(dataset: WILDSDataset, task: Task) -> F64:
    """The measures of a few rows of a data set, (rows, C, M)."""
    return np.array([measure(read_image(dataset, row).numpy()) for row in task[2]])


def _kept(path: Path, shape: tuple[int, ...]) -> F64 | None:
    """The measures of a plate that was finished before; None where there are none, or of other sites."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(found) if found.shape == shape and found.dtype == np.float64 else None
