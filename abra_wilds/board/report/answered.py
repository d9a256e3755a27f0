"""A folder of answers as its page reads it: every well with what speaks against it, and every plate."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset

from abra_wilds.analysis.qc.judge import LIMITS
from abra_wilds.data.datasets.quality import FLAG, OF_PLATE, well_name
from abra_wilds.data.screens.columns import JOINT
from abra_wilds.errors import InputError

LEAST_PROBABILITY = 0.5
MOST_CLASSES = 5.0  # exp(entropy); as many as the tables list
WANTED = ("Predicted", "Probability", "Entropy", "Adaptation", "Calibrated")


@dataclass(frozen=True)
class Certificate:
    """A line of certificates.csv: what the predictions of a bio-batch are worth.

    Attributes:
        bio_batch: its name, or that of its plate where it is one.
        images: how many.
        accuracy: estimated, with the ends of its interval.
        low: end of the interval.
        high: end of the interval.
        trusted: whether nothing speaks against it.
        reason: what does.
        advice: whether to adapt.
        because: of what.
    """

    bio_batch: str
    images: int
    accuracy: float
    low: float
    high: float
    trusted: bool
    reason: str
    advice: str
    because: str


@dataclass(frozen=True)
class Answered:
    """What a folder of answers says.

    Attributes:
        about: its config.json.
        wells: one row each: WANTED, plate, well, label (None where unknown), why and letter of what
            speaks against it, both empty where nothing does, and whether its plate is lost.
        plates: name -> why not to trust it, empty where nothing speaks against it.
        certificates: of bio-batches; none where the adaptation makes none.
        n_sites: how many sites were predicted.
        flagged: sites with a flag of quality control; None where the table has no such column.
    """

    about: dict[str, Any]
    wells: pd.DataFrame
    plates: dict[str, str]
    certificates: list[Certificate]
    n_sites: int
    flagged: int | None

    @property
    def adaptation(self) -> str:
        """Its name; "none" where there is none."""
        names = [name for name in self.wells["Adaptation"].unique() if name != "none"]
        return ", ".join(names) or "none"


def read_answers(folder: Path) -> Answered:
    """Read a folder of `predict --screen`, with --by_plate or without.

    Raises:
        InputError: if it holds no answers.
    """
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        names = about["screen"]
        keys = list(dict.fromkeys([*names["bio_batch"], names["plate"], names["well"]]))
        wells, _ = columns_of(folder, "wells", [*keys, *WANTED, "Metadata_Site_Count", str(names["label"])])
        sites, n_sites = columns_of(folder, "sites", [*keys, FLAG])
        certificates = read_certificates(folder / "certificates.csv")
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise InputError(f"{folder} holds no answers of predict --screen that can be read") from None
    for table in (wells, sites):
        table["batch"] = table[names["bio_batch"]].astype(str).agg(JOINT.join, axis=1)
    pairs = wells[["batch", names["plate"]]].drop_duplicates()
    alone = not pairs[names["plate"]].duplicated().any()
    for table in (wells, sites):
        plate = table[names["plate"]].astype(str)
        table["plate"] = plate if alone else table["batch"] + " " + plate
        table["pair"] = table["batch"] + " plate " + plate
        table["well"] = table[names["well"]].astype(str).map(well_name)
    label = wells.get(names["label"])
    wells["label"] = None if label is None else label.map(lambda text: text or None)
    add_flags(wells, sites)
    wells[["why", "letter"]] = [against(row) for row in wells.to_dict("records")]
    plates = plates_against(wells, sites, {c.bio_batch: c for c in certificates})
    wells["lost"] = wells["plate"].map(plates) != ""
    named = dict(zip(wells["pair"], wells["plate"], strict=True))
    certificates = [replace(c, bio_batch=named.get(c.bio_batch, c.bio_batch)) for c in certificates]
    flagged = int((sites[FLAG] != "").sum()) if FLAG in sites else None
    return Answered(about, wells, plates, certificates, n_sites, flagged)


def columns_of(folder: Path, level: str, names: list[str]) -> tuple[pd.DataFrame, int]:
    """Those of some columns that a table has, from one file or a folder of files; and its number of rows."""
    whole = folder / f"{level}.parquet"
    found = pyarrow.dataset.dataset(whole if whole.exists() else folder / level, format="parquet")
    there = [name for name in names if name in found.schema.names]
    return found.to_table(columns=there).to_pandas(), found.count_rows()


def read_certificates(path: Path) -> list[Certificate]:
    """The lines of a certificates.csv; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Certificate(
                row["bio_batch"],
                int(row["images"]),
                float(row["accuracy"]),
                float(row["low"]),
                float(row["high"]),
                row["trusted"] == "True",
                row["reason"],
                row["advice"],
                row["because"],
            )
            for row in csv.DictReader(file)
        ]


def add_flags(wells: pd.DataFrame, sites: pd.DataFrame) -> None:
    """Columns of wells: how many sites are flagged, and for what, the most frequent reasons first."""
    wells["flagged"], wells["reasons"] = 0, ""
    if FLAG not in sites:
        return
    sites[FLAG] = sites[FLAG].fillna("")
    found: dict[tuple[str, str], Counter[str]] = {}
    number: Counter[tuple[str, str]] = Counter()
    for pair, well, text in sites.loc[sites[FLAG] != "", ["pair", "well", FLAG]].itertuples(index=False):
        number[pair, well] += 1
        found.setdefault((pair, well), Counter()).update(text.split("; "))
    own = list(zip(wells["pair"], wells["well"], strict=True))
    wells["flagged"] = [number[key] for key in own]
    wells["reasons"] = [", ".join(r for r, _ in found.get(key, Counter()).most_common()) for key in own]


def against(row: dict[Any, Any]) -> tuple[str, str]:
    """What speaks against a well's prediction, and the letter of the first of it."""
    n, p, classes = row["Metadata_Site_Count"], row["Probability"], math.exp(row["Entropy"])
    said = []
    if 2 * row["flagged"] >= n:
        said.append(("Q", f"{row['flagged']} of {n} sites flagged: {row['reasons']}"))
    if p < LEAST_PROBABILITY:
        said.append(("P", f"probability {p:.2f}"))
    if classes > MOST_CLASSES:
        said.append(("S", f"spread over {classes:.0f} classes"))
    return "; ".join(text for _, text in said), said[0][0] if said else ""


def plates_against(
    wells: pd.DataFrame, sites: pd.DataFrame, certificates: dict[str, Certificate]
) -> dict[str, str]:
    """Plate -> why not to trust it, empty where nothing speaks against it, in the order of the table."""
    flags = dict(iter(sites.groupby("plate")[FLAG])) if FLAG in sites else {}
    found = {}
    for plate, batch, pair in wells.drop_duplicates("plate")[["plate", "batch", "pair"]].itertuples(
        index=False
    ):
        said = []
        own = certificates.get(pair) or certificates.get(batch)
        if own is not None and not own.trusted:
            said.append(own.reason)
        if plate in flags:
            of_plate = {r for text in flags[plate] for r in text.split("; ") if r.startswith(OF_PLATE)}
            said += sorted(reason.removeprefix(OF_PLATE) for reason in of_plate)
            n, bad = len(flags[plate]), int((flags[plate] != "").sum())
            if not of_plate and bad > LIMITS.plate * n:
                said.append(f"{bad} of {n} sites flagged")
        found[plate] = "; ".join(said)
    return found
