"""Empirical risk minimisation (Vapnik 1992; WILDS, Koh et al., ICML 2021)."""

from __future__ import annotations

from abra_wilds.functional.losses import cross_entropies
from abra_wilds.methods.base import Method
from abra_wilds.types import Batch, StepOutput


class ERM(Method):
    """Average cross-entropy over the pooled training data."""

    name = "ERM"

    def forward(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy of the batch."""
        logits = self.predict(batch.x)  # (N, O)
        return StepOutput(cross_entropies(logits, batch.target).mean(), logits)
