"""Tables of wells, and embeddings of them that are made to be mixed or apart."""

import itertools

import numpy as np
import pandas as pd

from abra_wilds.analysis.metrics.wells import wells_at

RNG = np.random.default_rng


def wells(n_batches=3, n_labels=8, repeats=2, line="HUVEC", controls=0):
    """A table of wells: every experiment, of one plate, has every class and some negative controls."""
    rows = []
    for b in range(n_batches):
        labels = [*np.repeat(np.arange(n_labels), repeats), *[n_labels] * controls]
        for place, label in zip(RNG(b).permutation(len(labels)), labels, strict=True):
            name = f"{chr(65 + place % 16)}{place // 16 + 1:02}"
            kind = "negcon" if label == n_labels else "trt"
            rows.append((line, f"{line}-{b:02}", f"{line}-{b:02}_1", name, int(label), kind))
    columns = ("Cell_Line", "Batch", "Plate", "Well", "sirna_id", "control_type")
    return pd.DataFrame(rows, columns=[f"Metadata_{name}" for name in columns])


def parts(table):
    """(experiments, classes)."""
    return table["Metadata_Batch"].to_numpy(dtype=object), table["Metadata_sirna_id"].to_numpy()


def measured_on(table, group=None, pairs=()):
    """All wells of a table of one cell line."""
    return wells_at(table, np.arange(len(table)), group, pairs)


def embedded(table, of_batch, of_label, seed=0, D=5):
    """Features that are a place of the experiment, a place of the class, and noise; controls have none."""
    rng = RNG(seed)
    batch, label = parts(table)
    negative = (table["Metadata_control_type"] == "negcon").to_numpy()
    places = {name: rng.normal(size=D) for name in [*np.unique(batch), *np.unique(label)]}
    places |= dict.fromkeys(np.unique(label[negative]), np.zeros(D))
    noise = rng.normal(size=(len(table), D))
    return np.stack(
        [of_batch * places[b] + of_label * places[y] + e for b, y, e in zip(batch, label, noise, strict=True)]
    ).astype(np.float32)


def by_hand(f, wells, right, wrong):
    """{row: (average precision, right, all)} by sorting cosines; right and wrong say it of a pair (i, j)."""
    unit = f / np.linalg.norm(f, axis=1, keepdims=True)
    found = {}
    for i in range(len(f)):
        others = [j for j in range(len(f)) if j != i and (right(wells, i, j) or wrong(wells, i, j))]
        hits = [right(wells, i, j) for j in sorted(others, key=lambda j: -float(unit[i] @ unit[j]))]
        if any(hits) and not all(hits):
            precisions = [sum(hits[: k + 1]) / (k + 1) for k, hit in enumerate(hits) if hit]
            found[i] = np.mean(precisions), sum(hits), len(hits)
    return found


def random_precision(P, L):
    """The mean average precision over all orders of L items, P of them right."""
    orders = list(itertools.combinations(range(L), P))
    return np.mean([[(k + 1) / (place + 1) for k, place in enumerate(places)] for places in orders])
