"""Where in a screen predictions are right: by experiment, by plate and well, and which classes are confused.

Predictions carry no ids: their order is that of the split's rows in metadata.csv, as WILDS reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from abra_wilds.board.report.maps import Format, format_of, plate_map
from abra_wilds.board.report.parts import Group
from abra_wilds.config.run import COMMON
from abra_wilds.config.screen import DATASET as SCREEN
from abra_wilds.data.datasets.layouts import find_folder
from abra_wilds.data.datasets.metadata import class_texts, read_metadata
from abra_wilds.data.datasets.splits import split_array
from abra_wilds.errors import InputError
from abra_wilds.results.files import read_predictions, sha256
from abra_wilds.results.runs import SPLIT_NAMES, Entry

LEAST_FORMAT = (16, 24)  # of RxRx1, however few of its wells are there
SHADES = 5
MOST_PLATES = 16
LEAST = 3  # experiments that are named
MOST_PAIRS = 15


@dataclass(frozen=True)
class SplitRows:
    """The rows of a data set.

    Attributes:
        path: of its metadata.csv, or of a screen.
        rows: in its order, with a column split.
        names: class id -> name, empty where the table has none.
        least: rows and columns that its plates have at least.
    """

    path: Path
    rows: pd.DataFrame
    names: dict[int, str]
    least: Format = LEAST_FORMAT


@dataclass(frozen=True)
class PlateMap:
    """A plate map.

    Attributes:
        name: experiment and plate.
        share: of images that are right, in percent.
        svg: the map, with its text alternative.
    """

    name: str
    share: float
    svg: str


def read_screen(root: Path, dataset: str, values: Mapping[str, Any]) -> SplitRows:
    """The rows of a data set, from its metadata.csv or its table alone.

    Args:
        root: as --root_dir of the runs, or as their --screen.
        dataset: "rxrx1", "rxrx1_6ch" or "screen".
        values: flag name -> value of a run.

    Raises:
        InputError: if there is no metadata.csv or screen, it is wrong, or the splits are others.
    """
    if dataset == SCREEN:
        return read_own(root, values)
    scheme = values["split_scheme"]
    path = (root / "rxrx1_v1.0" if dataset == "rxrx1" else find_folder(root)) / "metadata.csv"
    if not path.is_file():
        raise InputError(f"{path} does not exist; give --root_dir that holds the data of the runs")
    rows = read_metadata(path)
    if dataset != "rxrx1":
        ids = split_array(rows, scheme, path)
        split = np.array(["train", "val", "test", "id_test"])[ids]
    elif scheme == "official":
        split = rows["dataset"].mask((rows["dataset"] == "train") & (rows["site"] == 2), "id_test").to_numpy()
    else:
        raise InputError(f"maps of plates are not made for --split_scheme {scheme}; leave --root_dir out")
    return SplitRows(path, rows.assign(split=split), class_texts(path))


def read_own(path: Path, values: Mapping[str, Any]) -> SplitRows:
    """The rows of a screen by the settings of a run; its images need not be there.

    Args:
        path: of its table or folder.
        values: flag name -> value of the run.

    Raises:
        InputError: for whatever of it cannot be used.
    """
    # The only kind of data whose rows need torch.
    from abra_wilds.data.datasets.quality import well_name
    from abra_wilds.data.screens.screen import Screen

    dataset = Screen.open(replace(COMMON.section("screen", values), screen=str(path))).dataset()
    codes = dict(zip(dataset.metadata_fields, dataset.metadata_array.numpy().T, strict=True))
    texts = {name: np.array(known, dtype=object)[codes[name]] for name, known in dataset.metadata_map.items()}
    rows = pd.DataFrame({**texts, "sirna_id": codes["y"]})
    rows["well"] = rows["well"].map(well_name)
    numbers = {number: name for name, number in dataset.split_dict.items()}
    split = pd.Series(dataset.split_array).map(numbers)
    return SplitRows(path, rows.assign(split=split), dict(enumerate(dataset.class_names)), (0, 0))


def scored(entry: Entry, screen: SplitRows) -> pd.DataFrame:
    """The rows of an entry's split, with the columns predicted and right.

    Raises:
        InputError: if the predictions are not those of the record, or not of this data set.
    """
    path, r = entry.predictions, entry.record
    if not path.is_file() or sha256(path) != r.predictions_sha256:
        raise InputError(f"{path} is missing or not what its record was made of; predict again")
    rows = screen.rows[screen.rows["split"] == r.split]
    predicted = np.array(read_predictions(path))  # (n,) int64
    right = predicted == rows["sirna_id"].to_numpy() if len(predicted) == len(rows) else np.zeros(1)
    # WILDS' accuracies are float32.
    if len(predicted) != len(rows) or abs(right.mean() - r.acc) > 1e-5:
        raise InputError(
            f"{path} does not have the accuracy of its record on the {len(rows):,} rows of {r.split} in "
            f"{screen.path}, which is another data set; give the --root_dir of the runs"
        )
    return rows.assign(predicted=predicted, right=right)


def all_scored(group: Group, split: str, screen: SplitRows) -> pd.DataFrame:
    """The rows of a split once for each seed, with the columns predicted and right."""
    return pd.concat([scored(e, screen) for e in group.of(split)], ignore_index=True)


def by_experiment(
    groups: Sequence[Group], split: str, screen: SplitRows
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: accuracy of each experiment in percent, a column for each row of the report."""
    shown = [g for g in groups if g.of(split)]
    shares = [all_scored(g, split, screen).groupby("experiment")["right"].mean() for g in shown]
    header = ["Experiment", *(f"{g.label}, {g.checkpoint}" for g in shown)]
    return header, [[str(name), *(f"{100 * s[name]:.1f}" for s in shares)] for name in shares[0].index]


def least_right(rows: pd.DataFrame, label: str) -> str:
    """The experiments on which a row of the report fails most, in a sentence; "" where there is one alone."""
    shares = rows.groupby("experiment")["right"].mean().sort_values(kind="stable")
    if len(shares) < 2:
        return ""
    least = [f"{name} ({100 * share:.1f} %)" for name, share in shares.head(LEAST).items()]
    return f"Of {len(shares)} experiments, {label} is least right on {', '.join(least)}."


def by_plate(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and rows: accuracy of each plate in percent; plates that experiments number are columns."""
    means = rows.groupby(["experiment", "plate"])["right"].mean()
    if not means.index.get_level_values("plate").duplicated().any():
        return ["Bio-batch", "Plate", "Accuracy"], [
            [f"{e}", f"{p}", f"{100 * v:.1f}"] for (e, p), v in means.items()
        ]
    shares = means.unstack()
    header = ["Experiment", *(f"Plate {plate}" for plate in shares.columns)]
    return header, [
        [str(name), *("-" if np.isnan(v) else f"{100 * v:.1f}" for v in values)]
        for name, values in zip(shares.index, shares.to_numpy(), strict=True)
    ]


def plates(rows: pd.DataFrame, least: Format = LEAST_FORMAT) -> tuple[list[PlateMap], str]:
    """Maps of all plates, or where there are many, of the worst of each experiment, and which these are."""
    form = format_of(rows["well"].unique())
    if form is None:
        return [], "Wells are not named A01 to AF48, so there are no maps."
    form = max(form, least)
    shares = rows.groupby(["experiment", "plate"])["right"].mean()
    chosen, caption = shares, f"All {len(shares)} plates."
    if len(shares) > MOST_PLATES:
        worst = shares.loc[shares.groupby("experiment").idxmin()]
        chosen = worst.sort_values(kind="stable").head(MOST_PLATES).sort_index()
        few = f", for the {len(chosen)} experiments where it is lowest" if len(worst) > len(chosen) else ""
        others = len(shares) - len(chosen)
        caption = f"The worst plate of each experiment{few}; the other {others} plates are in the table."
    by_plate = dict(iter(rows.groupby(["experiment", "plate"])))
    named = {(e, p): f"{e} plate {p}" if e != p else f"{p}" for e, p in chosen.index}
    return [plate(name, by_plate[key], form) for key, name in named.items()], caption


def plate(name: str, rows: pd.DataFrame, form: Format) -> PlateMap:
    """A map whose wells have one of SHADES shades."""
    wells = rows.groupby("well")["right"].mean()
    shades = {str(well): f"w{min(int(share * SHADES), SHADES - 1)}" for well, share in wells.items()}
    share = 100 * float(rows["right"].mean())
    never = int((wells == 0).sum())
    alt = f"{name}: {share:.1f} % of images right; {len(wells)} wells, {never} of them never right."
    return PlateMap(name, share, plate_map(alt, form, shades))


def confusions(rows: pd.DataFrame, names: dict[int, str]) -> list[list[str]]:
    """Rows of the most frequent pairs: true and predicted class, images, share of the true class's."""
    wrong = rows[~rows["right"]].groupby(["sirna_id", "predicted"]).size()
    top = wrong.sort_values(ascending=False, kind="stable").head(MOST_PAIRS)
    of = rows["sirna_id"].value_counts()
    return [
        [class_name(y, names), class_name(p, names), f"{n:,}", f"{100 * n / of[y]:.0f} %"]
        for (y, p), n in top.items()
    ]


def class_name(label: int, names: dict[int, str]) -> str:
    """A class by id and name."""
    return f"{label} ({names[label]})" if label in names else str(label)


def split_name(split: str) -> str:
    """A split as the page calls it."""
    return SPLIT_NAMES.get(split, split)
