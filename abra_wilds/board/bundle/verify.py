"""Every score of a bundle again, from the files in the archive alone, by WILDS' evaluator."""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from abra_wilds.board.bundle.archives import (
    BUNDLED_SPLITS,
    LARGEST,
    README,
    SEEDS,
    BundleMember,
    climbs,
    member_name,
    read_archive,
    same_predictions,
    wrong_ids,
)
from abra_wilds.data.datasets.catalogue import is_simulated, load_dataset, split_subset
from abra_wilds.engine.evaluation.evaluate import by_cell, score
from abra_wilds.errors import InputError
from abra_wilds.results.files import write_text
from abra_wilds.results.records import aligned
from abra_wilds.results.significance import spread_of

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSSubset

EXPECTED = tuple(member_name(split, seed) for split in BUNDLED_SPLITS for seed in SEEDS)
Scores = Mapping[str, Mapping[str, Mapping[int, float]]]


def wrong_names(members: Sequence[BundleMember]) -> Iterator[str]:
    """What is wrong with the files of an archive before they are read."""
    counts = Counter(member.name for member in members)
    for name, n in counts.items():
        if n > 1:
            yield f"{name}: found {n} times, expected once"
    for member in members:
        if climbs(member.name):
            yield f"{member.name}: found a path out of the archive, expected one inside"
        elif member.kind != "file":
            yield f"{member.name}: found {member.kind}, expected a file"
        elif member.content is None:
            yield f"{member.name}: found more than {LARGEST:,} bytes, expected less"
        elif member.name not in (README, *EXPECTED):
            yield leftover(member.name)
    for name in EXPECTED:
        if name not in counts:
            yield f"{name}: found no such file, expected one"


def leftover(name: str) -> str:
    """What is wrong with a file that should not be there."""
    for split in BUNDLED_SPLITS:
        for seed in SEEDS:
            if name.startswith(f"rxrx1/rxrx1_split:{split}_seed:{seed}") and name.endswith((".csv", ".pth")):
                return (
                    f"{name}: found beside {member_name(split, seed)}, in whose place WILDS' evaluator may "
                    "take it, expected that one alone"
                )
    return f"{name}: found a leftover, expected {README} and the nine predictions files alone"


def other_order(y_pred: Tensor, subset: WILDSSubset) -> str | None:
    """The order in which a split's predictions make far more sense than in the data set's, or None.

    Predictions carry no ids, so one that went through a loader by plates looks like any other. Five standard
    errors of the difference tell far more from more.
    """
    y, metadata = subset.y_array, subset.metadata_array  # (n,), (n, F)
    fields = [field for field in subset.metadata_fields if field != "y"]
    orders = {"reversed": torch.arange(len(y)).flip(0)}
    for names in [*([field] for field in fields), ["experiment", "plate"], ["site", "experiment", "plate"]]:
        rows = torch.arange(len(y))
        for name in reversed(names):
            rows = rows[metadata[rows, fields_at(subset, name)].argsort(stable=True)]
        orders[f"sorted by {', '.join(names)}"] = rows
    shares = {name: float((y_pred == y[rows]).double().mean()) for name, rows in orders.items()}
    best = max(shares, key=lambda name: shares[name])
    p, p0 = shares[best], float((y_pred == y).double().mean())
    far = p - p0 > 5 * ((p * (1 - p) + p0 * (1 - p0)) / len(y)) ** 0.5
    return f"{best}, by which {100 * p:.1f} % are right and not {100 * p0:.1f} %" if far else None


def fields_at(subset: WILDSSubset, name: str) -> int:
    """The column of a metadata field."""
    return list(subset.metadata_fields).index(name)


def check_members(members: Sequence[BundleMember], dataset: Any) -> tuple[Scores, list[str]]:
    """Scores of an archive's files, and what is wrong with it; scores are empty where something is.

    Returns:
        {split: {"average" or cell type: {seed: fraction}}} and lines.
    """
    wrong = list(wrong_names(members))
    files = {m.name: m.content for m in members if m.content is not None}
    scores: dict[str, dict[str, dict[int, float]]] = {}
    for split in BUNDLED_SPLITS:
        subset = split_subset(dataset, split)
        for seed in SEEDS:
            name = member_name(split, seed)
            if name not in files:
                continue
            fault = wrong_ids(files[name], len(subset), int(dataset.n_classes))
            if fault:
                wrong.append(f"{name}: {fault}")
                continue
            y_pred = torch.tensor([int(line) for line in files[name].splitlines()])  # (n,)
            order = other_order(y_pred, subset)
            if order:
                wrong.append(f"{name}: found rows {order}, expected the order of the data set")
            results = score(subset, y_pred)
            for key, value in {"average": results["acc_avg"], **by_cell(results)}.items():
                scores.setdefault(split, {}).setdefault(key, {})[seed] = value
    for name, known in same_predictions(files):
        wrong.append(f"{name}: found the predictions of {known} again, expected those of another run")
    return ({} if wrong else scores), wrong


def as_text(scores: Scores, sizes: Mapping[str, int]) -> str:
    """Mean and sample standard deviation over seeds in percent, by split and cell type."""
    columns = ["average", *sorted({key for found in scores.values() for key in found} - {"average"})]
    rows = [["split", "images", *columns]]
    for split, found in scores.items():
        cells = [spread_of(found[key].values()) if key in found else "-" for key in columns]
        rows.append([split, f"{sizes[split]:,}", *cells])
    return aligned(rows) + "\n"


def as_json(scores: Scores, sizes: Mapping[str, int], simulated: bool) -> str:
    """The same as fractions, with each seed's."""
    splits = {
        split: {
            "n": sizes[split],
            "accuracy": {
                key: {
                    "mean": statistics.mean(by_seed.values()),
                    "std": statistics.stdev(by_seed.values()),
                    "seeds": by_seed,
                }
                for key, by_seed in found.items()
            },
        }
        for split, found in scores.items()
    }
    return json.dumps({"dataset": "rxrx1", "simulated": simulated, "splits": splits}, indent=1) + "\n"


def verify(archive: Path, root_dir: Path, numbers: Path | None) -> int:
    """Print the scores of an archive, or what is wrong with it; returns the exit code."""
    dataset = load_dataset("rxrx1", root_dir)
    try:
        members = read_archive(archive)
    except InputError as fault:
        print(f"wrong: {fault}", file=sys.stderr)
        return 1
    scores, wrong = check_members(members, dataset)
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    if wrong:
        return 1
    sizes = {split: len(split_subset(dataset, split)) for split in BUNDLED_SPLITS}
    data = "simulated data: no submission" if is_simulated(dataset) else "RxRx1-WILDS"
    print(f"Accuracy in percent on {data}, mean ± sample standard deviation over seeds 0, 1 and 2")
    print(as_text(scores, sizes), end="")
    if numbers is not None:
        write_text(numbers, as_json(scores, sizes, is_simulated(dataset)))
    return 0
