"""The table that a reviewer asks for: embeddings of the same wells in rows, metrics in columns.

Cell lines differ by biology and share no experiment, so every metric is computed for each line and averaged
over lines by their wells. Rows are treatment wells where controls are known, since `postprocess` fits the
controls; of classes, those that two experiments or more show. A well is one row, whatever splits its sites
are in: counted once for each split it would be its own replicate.

Letters: n wells, D features.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from abra_wilds.analysis.metrics import integration, mixing, relations, retrieval
from abra_wilds.analysis.metrics.wells import (
    Found,
    Ints,
    Wells,
    measurable,
    negatives,
    resampled,
    wells_at,
    whole_classes,
)
from abra_wilds.analysis.postprocess import Floats
from abra_wilds.errors import InputError

# Wells of a cell line that are measured; retrieval and silhouettes are quadratic in them.
MOST = 2000
SETS = ("field", "all")
NEEDS = {"copairs": "hcs", "scib_metrics": "scib"}
Several = tuple[Found, ...] | Found | None


@dataclass(frozen=True)
class Metric:
    """One or two columns of the table.

    Attributes:
        names: of the columns.
        measure: from features (n, D) and wells to as many values, or None where it needs what is not there.
        better: whether "lower" or "higher" values are wanted.
        caveat: what it does not say.
        in_field: whether it is in the set "field", else only in "all".
        controls: whether it also needs the negative controls.
    """

    names: tuple[str, ...]
    measure: Callable[[Floats, Wells], Several]
    better: str
    caveat: str
    in_field: bool = True
    controls: bool = False


METRICS = (
    Metric(
        ("mAP, controls", "retrieved, controls"),
        retrieval.against_controls,
        "higher",
        "negative controls of the well's own plate are the wrong ones; with one or two a plate it is coarse",
        controls=True,
    ),
    Metric(
        ("mAP, treatments", "retrieved, treatments"),
        retrieval.against_treatments,
        "higher",
        "rises with fewer treatments to confuse, so only equal wells compare",
    ),
    Metric(
        ("mAP, annotation", "retrieved, annotation"),
        retrieval.by_annotation,
        "higher",
        "treatments of one annotation need not look alike",
    ),
    Metric(
        ("known pairs",),
        relations.recall,
        "higher",
        "the share of --pairs among the 5 % most and the 5 % least similar; unknown relations count as none",
    ),
    Metric(
        ("CiLISI",),
        integration.cilisi,
        "higher",
        "local, and at chance also for an embedding that shows nothing",
    ),
    Metric(
        ("BRAS",),
        integration.bras,
        "higher",
        "a mean over wells, which can be high although experiments are apart in parts of the space",
    ),
    Metric(
        ("experiment classifier",),
        mixing.batch_accuracy,
        "lower",
        "linear, and finds an effect in one direction that nothing else would notice",
    ),
    Metric(
        ("silhouette by experiment",),
        mixing.silhouette_batch,
        "lower",
        "a mean over wells, which can be low although experiments are apart in parts of the space",
        in_field=False,
    ),
    Metric(
        ("neighbours of the same experiment",),
        mixing.knn_purity,
        "lower",
        "local: a shift of experiments shows only if it is not small against neighbours' distances",
        in_field=False,
    ),
    Metric(
        ("silhouette by siRNA",),
        mixing.silhouette_label,
        "higher",
        "an siRNA without an effect has no cluster of its own, so this is low for good embeddings too",
        in_field=False,
    ),
)


def check_packages() -> None:
    """Raise where a package that metrics are computed by is missing.

    Raises:
        InputError: naming the extras that have them.
    """
    missing = [extra for package, extra in NEEDS.items() if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(
            "--metrics is computed by the packages copairs and scib-metrics, and not both are installed; "
            f"run `pip install 'abra-wilds[{','.join(missing)}]'`"
        )


def reviewed(
    features: Mapping[str, Floats],
    table: pd.DataFrame,
    which: str = "field",
    *,
    group: str | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    seed: int = 0,
    most: int = MOST,
) -> list[dict[str, Any]]:
    """Every metric of several embeddings of the same wells.

    Args:
        features: name of a row -> (n, D).
        table: (n rows) of wells, with a fresh index.
        which: of SETS.
        group: the table's column of annotations, "" where a class has none.
        pairs: names of annotations, or class ids without those, that are known to be related.
        seed: of the choice of classes where a line has more wells than `most`.
        most: treatment wells of a line.

    Returns:
        One entry a column: metric, better, caveat, for each row its mean over lines; `chance` and `interval`
        (or None), which have those of each row; `by_cell_line`, the same of each line, with the number of
        wells; and `each`, what is known of single treatments. What cannot be measured has no entry.
    """
    label, is_negative = table["Metadata_sirna_id"].to_numpy(), negatives(table)
    cell_line = table["Metadata_Cell_Line"].to_numpy(dtype=object)
    rows: dict[str, Ints] = {}
    for line, treated in measurable(table).items():
        chosen = treated[whole_classes(label[treated], most, seed)]
        rows[line] = np.concatenate([chosen, np.flatnonzero(is_negative & (cell_line == line))])
    lines = {line: wells_at(table, own, group, pairs) for line, own in rows.items()}
    entries = []
    for metric in METRICS:
        if metric.in_field or which == "all":
            found = {
                line: {name: measured(metric, f[rows[line]], wells) for name, f in features.items()}
                for line, wells in lines.items()
            }
            there = {line: of for line, of in found.items() if all(of.values())}
            weights = {line: int((~lines[line].negative).sum()) for line in there}
            entries += [entry_of(metric, k, there, weights) for k in range(len(metric.names)) if there]
    return entries


def measured(metric: Metric, f: Floats, wells: Wells) -> tuple[Found, ...]:
    """The columns of a metric for one line; none where it cannot be measured."""
    if not metric.controls:
        f, wells = f[~wells.negative], wells.of(~wells.negative)
    found = metric.measure(f, wells)
    return () if found is None else found if isinstance(found, tuple) else (found,)


def entry_of(
    metric: Metric, k: int, found: Mapping[str, Mapping[str, tuple[Found, ...]]], weights: Mapping[str, int]
) -> dict[str, Any]:
    """One column as it is written, from line -> row -> its values."""
    names = list(next(iter(found.values())))
    w = list(weights.values())

    def mean(of: Callable[[Found], float], name: str) -> float:
        return float(np.average([of(line[name][k]) for line in found.values()], weights=w))

    return {
        "metric": metric.names[k],
        "better": metric.better,
        "caveat": metric.caveat,
        **{name: mean(lambda x: x.value, name) for name in names},
        "chance": {name: mean(lambda x: x.chance, name) for name in names},
        "interval": {name: resampled([of[name][k].parts for of in found.values()], w) for name in names},
        "by_cell_line": {
            line: {
                "wells": weights[line],
                **{name: x[k].value for name, x in of.items()},
                "chance": {name: x[k].chance for name, x in of.items()},
                "each": {name: x[k].each for name, x in of.items() if x[k].each},
            }
            for line, of in found.items()
        },
    }
