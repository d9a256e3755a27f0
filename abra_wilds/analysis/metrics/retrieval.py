"""Whether wells of a treatment, or of treatments with one annotation, find each other, by copairs.

Of a well, all others that may be its pairs are put in order of cosine similarity, and the average precision
of the right ones is taken (Kalinin et al. 2025, doi 10.1038/s41467-025-60306-2). Right ones are in another
experiment and at another well position, so that neither an experiment nor a place on the plate can find them.

Letters: n wells, D features.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from abra_wilds.analysis.metrics.wells import Found, Wells
from abra_wilds.analysis.postprocess import Floats

NULLS = 10_000
Q = 0.05
APART = ["batch", "position"]
DIGITS = 9  # of a cosine; less is rounding
NOISE = 1e-6  # of a mean of average precisions in float32


def against_controls(f: Floats, wells: Wells) -> tuple[Found, Found] | None:
    """Replicates against the negative controls of the well's own plate: mean mAP, and the share retrieved."""
    # A control is its own class, so that none is right for another.
    label = np.where(wells.negative, -1 - np.arange(len(f)), wells.label)
    meta = frame(wells).assign(label=label, negative=wells.negative)
    return retrieved(f, meta, ["label"], APART, ["plate"], ["negative"])


def against_treatments(f: Floats, wells: Wells) -> tuple[Found, Found] | None:
    """Replicates against wells of all other treatments: mean mAP, and the share retrieved."""
    return retrieved(f, frame(wells), ["label"], APART, [], ["label"])


def by_annotation(f: Floats, wells: Wells) -> tuple[Found, Found] | None:
    """Wells of other treatments with the same annotation, against those of other annotations."""
    if wells.group is None:
        return None
    known = wells.group != ""
    meta = frame(wells.of(known)).assign(group=wells.group[known])
    return retrieved(f[known], meta, ["group"], ["label", *APART], [], ["group"]) if len(meta) else None


def frame(wells: Wells) -> pd.DataFrame:
    """What pairs are made by, (n rows)."""
    columns = {"label": wells.label, "batch": wells.batch, "plate": wells.plate, "position": wells.position}
    return pd.DataFrame(columns)


def retrieved(
    f: Floats,
    meta: pd.DataFrame,
    same: Sequence[str],
    apart: Sequence[str],
    negative_same: Sequence[str],
    negative_apart: Sequence[str],
) -> tuple[Found, Found] | None:
    """Mean average precision of groups, and the share of them with q < 0.05.

    Average precisions of wells are averaged over the group, then over groups. p is the share of copairs'
    random orders that are at least as good: copairs counts better ones alone, and of few controls even a
    random order is often as good as can be. q is that of Benjamini and Hochberg.

    Args:
        f: (n, D).
        meta: (n rows) what pairs are made by.
        same: columns that a pair of right ones shares; the first one's values are the groups.
        apart: columns that it differs in.
        negative_same: those that a pair of wrong ones shares.
        negative_apart: those that it differs in.

    Returns:
        None where there are no such pairs.
    """
    from copairs.map import average_precision
    from copairs.map.normalization import expected_ap
    from copairs.matching import UnpairedException

    numbers = np.arange(len(f))[:, None]
    similarity = order_of_cosines(f)
    try:
        # Given features, copairs copies both of every pair: 2,000 wells of 2,048 features take it minutes.
        scores = average_precision(
            meta,
            numbers,
            list(same),
            list(apart),
            list(negative_same),
            list(negative_apart),
            distance=lambda i, j: similarity[i[:, 0], j[:, 0]],
            progress_bar=False,
        )
    except UnpairedException:
        return None
    there = (scores["n_pos_pairs"] > 0) & (scores["n_total_pairs"] > scores["n_pos_pairs"])
    scores = scores[there].reset_index(drop=True)
    if scores.empty:
        return None
    orders = scores[["n_pos_pairs", "n_total_pairs"]].to_numpy(dtype=np.int64)
    of = {(P, L): expected_ap(P, L - P) for P, L in np.unique(orders, axis=0).tolist()}
    scores["chance"] = [of[P, L] for P, L in orders.tolist()]
    return summed_up(scores, same[0], p_values(scores, orders, same[0]))


def summed_up(scores: pd.DataFrame, group: str, p: Floats) -> tuple[Found, Found]:
    """The two metrics of average precisions of wells and p of their groups, in the groups' order."""
    means = scores.groupby(group)[["average_precision", "chance"]].mean()
    found, q = means["average_precision"].to_numpy(), false_discovery_control(p)
    each = {
        str(name): {"map": float(m), "p": float(a), "q": float(b)}
        for name, m, a, b in zip(means.index, found, p, q, strict=True)
    }
    ones = np.ones(len(found))
    chance = float(means["chance"].mean())
    return (
        Found(float(found.mean()), chance, np.stack([found, ones]), each),
        Found(float((q < Q).mean()), 0.0, np.stack([q < Q, ones])),
    )


def order_of_cosines(f: Floats) -> Floats:
    """The rank of each pair's cosine among all, (n, n), equal ones in an order that a fixed seed repeats.

    copairs compares float32 and puts right ones first where similarities are equal; ranks are all different,
    and exact for up to 5,000 wells.
    """
    x = f.astype(np.float64)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(x.dtype).tiny)
    pairs = np.triu_indices(len(f), 1)
    cosine = (unit @ unit.T)[pairs].round(DIGITS)
    order = np.lexsort([np.random.default_rng(0).permutation(len(cosine)), cosine])
    ranks = np.zeros((len(f), len(f)))
    ranks[pairs[0][order], pairs[1][order]] = np.arange(len(order))
    both: Floats = ranks + ranks.T
    return both


def p_values(scores: pd.DataFrame, orders: np.ndarray, group: str) -> Floats:
    """P of each group, in their order, by copairs' random orders of as many right and wrong ones."""
    from copairs.compute import get_null_dists

    kinds, kind = np.unique(orders, axis=0, return_inverse=True)
    # By default copairs keeps random orders below the home directory, and draws depend on what is there.
    with tempfile.TemporaryDirectory() as folder:
        random = get_null_dists(kinds, NULLS, seed=0, cache_dir=folder, progress_bar=False)
    found = []
    for _, own in scores.groupby(group):
        as_good = random[kind.ravel()[own.index]].mean(0) >= own["average_precision"].mean() - NOISE
        found.append((1 + as_good.sum()) / (1 + NULLS))
    return np.array(found)
