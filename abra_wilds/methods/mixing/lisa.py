"""LISA-L: mixing images of one class from different domains (Yao et al., ICML 2022, arXiv 2201.00299).

Read for facts: huaxiuyao/LISA c857a6b, its RxRx1 part. Differences: a partner is another image, of another
experiment wherever its class has one there; the published code draws it from the whole class, the image
itself included (`--pairs_cross false`). Adam without amsgrad, and WILDS' warm-up in epochs. The paper's other
half, LISA-D, mixes classes within a domain and is not meant for domain shifts.
"""

from __future__ import annotations

from abra_wilds.functional.losses import cross_entropies
from abra_wilds.methods.base import Method
from abra_wilds.types import Batch, BatchPlan, StepOutput


class LISA(Method):
    """Cross-entropy on images that carry a box of a partner; both show one class, so that y stays hard.

    A batch arrives as images and their partners, mixed with each other: the loader pairs, the engine mixes,
    by one box of share 1 - lam with lam ~ Beta(2, 2).
    """

    name = "LISA"
    plan = BatchPlan("pairs", mix="lisa", mix_alpha=2.0, loaders=("pairs",))

    def forward(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy of the mixed batch."""
        logits = self.predict(batch.x)  # (N, O)
        return StepOutput(cross_entropies(logits, batch.target).mean(), logits)
