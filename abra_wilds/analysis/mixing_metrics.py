"""How far embeddings mix experiments and keep biology apart, inside each cell line.

Cell lines differ by biology and share no experiment, so every metric is computed for each line and averaged
over lines by their wells. Rows are treatment wells where controls are known, since `postprocess` fits the
controls; of classes, those that two experiments or more show. A well is one row, whatever splits its sites
are in: counted once for each split it would be its own replicate.

Beside each value stands that of chance. A silhouette takes the nearest of the other groups, so that with
many small groups it lies far below 0 where names mean nothing; its chance is that of shuffled names in the
same embedding. Classes are shuffled inside experiments and experiments inside classes, so that what the other
does stays as it is.

The scib names (Luecken et al. 2022) are left to their package: `pip install 'abra-wilds[scib]'` and
`scib_metrics.benchmark.Benchmarker` on the well file, with Metadata_Batch and Metadata_sirna_id. Issue
193 of scib-metrics calls its silhouettes of batches misleading, and issue 64 of theislab/kBET says that kBET
will almost always find a batch effect.

Letters: n wells, D features.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances, silhouette_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from abra_wilds.analysis.postprocess import Floats
from abra_wilds.errors import InputError
from abra_wilds.results.records import aligned

Names = NDArray[np.object_]
# Wells of a cell line that are measured; retrieval and silhouettes are quadratic in them.
MOST = 2000
NEIGHBOURS = 15
FOLDS = 3
SHUFFLES = 5


@dataclass(frozen=True)
class Metric:
    """One number about an embedding.

    Attributes:
        measure: from features (n, D), experiments (n,) and classes (n,) to the value and that of chance.
        better: whether "lower" or "higher" values are wanted.
        caveat: what it does not say.
    """

    measure: Callable[[Floats, Names, NDArray[np.int64]], tuple[float, float]]
    better: str
    caveat: str


def silhouette_batch(f: Floats, batch: Names, label: NDArray[np.int64]) -> tuple[float, float]:
    """Euclidean silhouette of experiments (Rousseeuw 1987), and of experiments shuffled inside classes."""
    return silhouette(f, batch, label)


def silhouette_label(f: Floats, batch: Names, label: NDArray[np.int64]) -> tuple[float, float]:
    """Euclidean silhouette of classes, and of classes shuffled inside experiments."""
    return silhouette(f, label, batch)


def silhouette(f: Floats, names: NDArray[Any], within: NDArray[Any]) -> tuple[float, float]:
    """The silhouette of groups, and the mean of that of shuffled ones, which a fixed seed repeats.

    Args:
        f: (n, D).
        names: (n,) of the groups.
        within: (n,); only rows that are equal here change names.
    """
    distance, rng = pairwise_distances(f), np.random.default_rng(0)  # (n, n)

    def score(found: NDArray[Any]) -> float:
        return float(silhouette_score(distance, found, metric="precomputed"))

    return score(names), float(np.mean([score(shuffled(names, within, rng)) for _ in range(SHUFFLES)]))


def shuffled(names: NDArray[Any], within: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Names (n,) in random order among the rows that are equal in `within` (n,)."""
    order = rng.permutation(len(names))
    found = np.empty_like(names)
    # Both sides are in order of `within`, so that each group meets its own names, in random order.
    found[np.argsort(within, kind="stable")] = names[order][np.argsort(within[order], kind="stable")]
    return found


def knn_purity(f: Floats, batch: Names, label: NDArray[np.int64]) -> tuple[float, float]:
    """The share of a well's nearest neighbours that are of its experiment; chance is that of all others."""
    k = min(NEIGHBOURS, len(f) - 1)
    near = NearestNeighbors(n_neighbors=k).fit(f).kneighbors(return_distance=False)  # (n, k), never itself
    _, code, sizes = np.unique(batch, return_inverse=True, return_counts=True)
    return float((batch[near] == batch[:, None]).mean()), float(((sizes[code] - 1) / (len(f) - 1)).mean())


def batch_accuracy(f: Floats, batch: Names, label: NDArray[np.int64]) -> tuple[float, float]:
    """How often a logistic regression names the experiment of wells whose class it has not seen.

    Chance is the share of the largest experiment.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = GroupKFold(min(FOLDS, len(np.unique(label))))
    named = cross_val_predict(model, f, batch, groups=label, cv=folds)
    return float((named == batch).mean()), float(np.unique(batch, return_counts=True)[1].max() / len(batch))


def retrieval_map(f: Floats, batch: Names, label: NDArray[np.int64]) -> tuple[float, float]:
    """Mean average precision of finding a class in other experiments, by cosine (Kalinin et al. 2025).

    Positives are wells of the same class in other experiments, negatives wells of other classes in any.
    Wells of a class are averaged first, then classes; chance is that of a random order, exactly.
    """
    from copairs.map import average_precision

    unit = f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), np.finfo(f.dtype).tiny)
    cosine = unit @ unit.T  # (n, n)

    def looked_up(i: NDArray[np.int64], j: NDArray[np.int64]) -> Floats:
        found: Floats = cosine[i[:, 0], j[:, 0]]
        return found

    # Given features, copairs copies both of every pair: 2,000 wells of 2,048 features take it minutes.
    numbers, meta = np.arange(len(f))[:, None], pd.DataFrame({"batch": batch, "label": label})
    found = average_precision(
        meta, numbers, ["label"], ["batch"], [], ["label"], distance=looked_up, progress_bar=False
    )
    found["chance"] = [
        random_precision(P, L) for P, L in zip(found["n_pos_pairs"], found["n_total_pairs"], strict=True)
    ]
    means = found.groupby("label")[["average_precision", "chance"]].mean().mean()
    return float(means["average_precision"]), float(means["chance"])


def random_precision(P: int, L: int) -> float:
    """The expected average precision of a random order of L >= 2 items, P of them positive."""
    harmonic = float((1 / np.arange(1, L + 1)).sum())
    return (harmonic + (P - 1) / (L - 1) * (L - harmonic)) / L


METRICS = {
    "silhouette by experiment": Metric(
        silhouette_batch,
        "lower",
        "a mean over wells, which can be low although experiments are apart in parts of the space",
    ),
    "neighbours of the same experiment": Metric(
        knn_purity,
        "lower",
        "local: a shift of experiments shows only if it is not small against neighbours' distances",
    ),
    "experiment classifier": Metric(
        batch_accuracy, "lower", "linear, and finds an effect in one direction that nothing else would notice"
    ),
    "silhouette by siRNA": Metric(
        silhouette_label,
        "higher",
        "an siRNA without an effect has no cluster of its own, so this is low for good embeddings too",
    ),
    "replicate retrieval mAP": Metric(
        retrieval_map, "higher", "rises with fewer siRNAs to confuse, so only equal wells compare"
    ),
}


def measurable(table: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
    """The rows of each cell line that metrics are computed on, in order; lines without any are left out.

    Args:
        table: (n rows) of wells, from `profiles`.

    Raises:
        InputError: if that leaves no line.
    """
    kind = table.get("Metadata_control_type")
    treated = np.ones(len(table), dtype=bool) if kind is None else (kind == "trt").to_numpy()
    found = {}
    for line, rows in table[treated].groupby("Metadata_Cell_Line"):
        seen = rows.groupby("Metadata_sirna_id")["Metadata_Batch"].transform("nunique")
        rows = rows[seen > 1]
        if rows["Metadata_sirna_id"].nunique() > 1:
            found[str(line)] = rows.index.to_numpy()
    if not found:
        raise InputError(
            "--metrics compares experiments of a cell line by siRNAs that they share, and in these splits no "
            "line has two experiments that share two; add splits, or leave it out"
        )
    return found


def whole_classes(label: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Positions of all wells of randomly drawn classes, two and as many as fit into `most` wells."""
    classes, sizes = np.unique(label, return_counts=True)
    order = np.random.default_rng([seed, most]).permutation(len(classes))
    n = max(2, int((np.cumsum(sizes[order]) <= most).sum()))
    return np.flatnonzero(np.isin(label, classes[order[:n]]))


def mixing_metrics(
    features: Mapping[str, Floats], table: pd.DataFrame, seed: int = 0, most: int = MOST
) -> list[dict[str, object]]:
    """Every metric of several versions of the same embeddings, on the same wells.

    Args:
        features: name of a version -> (n, D), such as before and after post-processing.
        table: (n rows) of wells, with a fresh index.
        seed: of the choice of classes where a line has more wells than `most`.
        most: wells of a line.

    Returns:
        One entry a metric: metric, better, caveat, for each version its mean over lines, and chance, which
        has that of each version; and by_cell_line, which has the same of each line. Without the package
        copairs the last metric is missing.
    """
    lines = measurable(table)
    batch = table["Metadata_Batch"].to_numpy(dtype=object)
    label = table["Metadata_sirna_id"].to_numpy()
    chosen = {line: rows[whole_classes(label[rows], most, seed)] for line, rows in lines.items()}
    weights = [len(rows) for rows in lines.values()]
    entries: list[dict[str, object]] = []
    for name, metric in METRICS.items():
        if metric.measure is retrieval_map and not has_copairs():
            continue
        found = {
            line: {v: metric.measure(f[rows], batch[rows], label[rows]) for v, f in features.items()}
            for line, rows in chosen.items()
        }
        means = {v: np.average([of[v] for of in found.values()], axis=0, weights=weights) for v in features}
        by_line = {line: {"wells": len(chosen[line]), **told(of)} for line, of in found.items()}
        about = {"metric": name, "better": metric.better, "caveat": metric.caveat}
        entries.append({**about, **told(means), "by_cell_line": by_line})
    return entries


def told(found: Mapping[str, Sequence[float] | Floats]) -> dict[str, object]:
    """Values and chances of versions as they are written, from version -> (value, chance)."""
    values = {version: float(value) for version, (value, _) in found.items()}
    return {**values, "chance": {version: float(chance) for version, (_, chance) in found.items()}}


def has_copairs() -> bool:
    """Whether copairs is installed, which computes retrieval."""
    return importlib.util.find_spec("copairs") is not None


def metrics_table(entries: Sequence[Mapping[str, Any]], versions: Sequence[str]) -> str:
    """Metrics x versions, each with its chance behind it, as text, with a caveat a line."""
    rows = [["", *(header for version in versions for header in (version, "chance")), "wanted"]]
    for e in entries:
        numbers = (f"{x:.3f}" for version in versions for x in (e[version], e["chance"][version]))
        rows.append([e["metric"], *numbers, e["better"]])
    notes = [f"{e['metric']}: {e['caveat']}" for e in entries]
    if not has_copairs():
        notes.append("replicate retrieval is missing: run `pip install 'abra-wilds[hcs]'`")
    return "\n".join([aligned(rows), *notes]) + "\n"
