"""How far embeddings mix experiments and keep biology apart, inside each cell line.

Cell lines differ by biology and share no experiment, so every metric is computed for each line and averaged
over lines by their wells. Rows are treatment wells where controls are known, since `postprocess` fits the
controls; of classes, those that two experiments or more show.

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

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from abra_wilds.errors import InputError
from abra_wilds.records import aligned

Floats = NDArray[np.floating]
Names = NDArray[np.object_]
# Wells of a cell line that are measured; retrieval and silhouettes are quadratic in them.
MOST = 2000
NEIGHBOURS = 15
FOLDS = 3


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
    """Euclidean silhouette of experiments (Rousseeuw 1987); about 0 where they are mixed."""
    return float(silhouette_score(f, batch)), 0.0


def silhouette_label(f: Floats, batch: Names, label: NDArray[np.int64]) -> tuple[float, float]:
    """Euclidean silhouette of classes; 0 or below where nothing tells them apart."""
    return float(silhouette_score(f, label)), 0.0


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
        One entry a metric: metric, better, caveat, chance, and for each version its mean over lines; and
        by_cell_line, which has the same of each line. Without the package copairs the last metric is missing.
    """
    lines = measurable(table)
    batch = table["Metadata_Batch"].to_numpy(dtype=object)
    label = table["Metadata_sirna_id"].to_numpy()
    chosen = {line: rows[whole_classes(label[rows], most, seed)] for line, rows in lines.items()}
    weights = [len(rows) for rows in lines.values()]
    entries = []
    for name, metric in METRICS.items():
        if metric.measure is retrieval_map and not has_copairs():
            continue
        by_line: dict[str, dict[str, float]] = {}
        for line, rows in chosen.items():
            found = {v: metric.measure(f[rows], batch[rows], label[rows]) for v, f in features.items()}
            values = {version: value for version, (value, _) in found.items()}
            by_line[line] = {"wells": len(rows), "chance": next(iter(found.values()))[1], **values}
        means = {key: _mean(by_line, key, weights) for key in ("chance", *features)}
        about = {"metric": name, "better": metric.better, "caveat": metric.caveat}
        entries.append({**about, **means, "by_cell_line": by_line})
    return entries


def _mean(by_line: Mapping[str, Mapping[str, float]], key: str, weights: Sequence[int]) -> float:
    return float(np.average([line[key] for line in by_line.values()], weights=weights))


def has_copairs() -> bool:
    """Whether copairs is installed, which computes retrieval."""
    return importlib.util.find_spec("copairs") is not None


def metrics_table(entries: Sequence[Mapping[str, object]], versions: Sequence[str]) -> str:
    """Metrics x (chance, versions) as text, with a caveat a line."""
    rows = [["", "chance", *versions, "wanted"]]
    rows += [
        [str(e["metric"]), *(f"{e[key]:.3f}" for key in ("chance", *versions)), str(e["better"])]
        for e in entries
    ]
    notes = [f"{e['metric']}: {e['caveat']}" for e in entries]
    if not has_copairs():
        notes.append("replicate retrieval is missing: run `pip install 'abra-wilds[hcs]'`")
    return "\n".join([aligned(rows), *notes]) + "\n"
