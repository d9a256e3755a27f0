"""How many known relations an embedding shows, as the EFAAR pipeline counts them.

Celik et al. 2024 (doi 10.1371/journal.pcbi.1012463): profiles of genes are compared in pairs by cosine. A
known pair is found if it is among the 5 % most or the 5 % least similar of all pairs.

Letters: n wells, U genes or treatments, D features.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from abra_wilds.analysis.metrics.wells import Found, Wells
from abra_wilds.analysis.postprocess import Floats
from abra_wilds.errors import InputError

TAILS = (5, 95)
CHANCE = 0.1


def recall(f: Floats, wells: Wells) -> Found | None:
    """The share of known pairs in the two tails; None where there are none among the wells.

    A profile is the mean over experiments of the mean over wells.
    """
    names = np.unique(wells.units[wells.units != ""].astype(str))
    at = {name: u for u, name in enumerate(names)}
    known = {tuple(sorted((at[a], at[b]))) for a, b in wells.pairs if a in at and b in at and a != b}
    if not known:
        return None
    x = np.stack([profile(f[own], wells.batch[own]) for own in (wells.units == name for name in names)])
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(x.dtype).tiny)
    cosine = unit @ unit.T  # (U, U)
    low, high = np.percentile(cosine[np.triu_indices(len(x), 1)], TAILS)
    of_known = np.array([cosine[pair] for pair in sorted(known)])
    return Found(float(((of_known <= low) | (of_known >= high)).mean()), CHANCE)


def profile(f: Floats, batch: np.ndarray) -> Floats:
    """The mean (D,) of wells (n, D) of which each experiment counts alike."""
    means: Floats = np.mean([f[batch == name].mean(0, dtype=np.float64) for name in np.unique(batch)], axis=0)
    return means


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Known pairs from a csv file of two columns without a header, a pair a line.

    Raises:
        InputError: if it cannot be read, or a line has not two names.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as fault:
        raise InputError(
            f"--pairs {path} cannot be read ({fault}); give a csv file of two columns of names"
        ) from None
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise InputError(
                f"--pairs {path} has {len(row)} entries in row {number}, and a pair is two names; write one "
                "pair a line, with a comma between"
            )
    return [(a.strip(), b.strip()) for a, b in rows]
