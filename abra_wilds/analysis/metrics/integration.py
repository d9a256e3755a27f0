"""How far wells of different experiments mix, by scib-metrics.

Experiments are mixed inside a cell line, which is here what a cell type is among single cells. CiLISI
(Andreatta et al. 2024, doi 10.1038/s41467-024-45240-z) is the inverse Simpson index of experiments among a
well's neighbours, 0 where they are of one experiment and 1 where all are there alike. BRAS (Rautenstrauch and
Ohler 2025, doi 10.1038/s41587-025-02743-4) compares distances inside and between experiments, 1 where they
are equal.

Letters: n wells, D features.
"""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from abra_wilds.analysis.metrics.mixing import SHUFFLES, shuffled
from abra_wilds.analysis.metrics.wells import Found, Wells, mean_by
from abra_wilds.analysis.postprocess import Floats, Names

NEIGHBOURS = 90  # of scib-metrics' own benchmark, the well itself among them


def cilisi(f: Floats, wells: Wells) -> Found:
    """CiLISI, and that of experiments shuffled inside classes."""
    from scib_metrics import lisi_knn
    from scib_metrics.nearest_neighbors import NeighborsResults

    k = min(NEIGHBOURS, len(f))
    distances, indices = NearestNeighbors(n_neighbors=k).fit(f).kneighbors(f)
    near, n_batches = NeighborsResults(indices, distances), len(np.unique(wells.batch))

    def score(batch: Names) -> Floats:
        scaled: Floats = (np.asarray(lisi_knn(near, batch), dtype=np.float64) - 1) / (n_batches - 1)
        return scaled

    rng = np.random.default_rng(0)
    chance = np.mean([score(shuffled(wells.batch, wells.label, rng)).mean() for _ in range(SHUFFLES)])
    return mean_by(wells.label, score(wells.batch), float(chance))


def bras(f: Floats, wells: Wells) -> Found:
    """BRAS, and that of experiments shuffled inside classes."""
    import scib_metrics

    one, rng = np.zeros(len(f), dtype=np.int64), np.random.default_rng(0)

    def score(batch: Names) -> float:
        return float(scib_metrics.bras(f, one, batch))

    chance = np.mean([score(shuffled(wells.batch, wells.label, rng)) for _ in range(SHUFFLES)])
    return Found(score(wells.batch), float(chance))
