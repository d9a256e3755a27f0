"""Adaptive risk minimisation by batch norm (Zhang, Marklund et al., NeurIPS 2021, arXiv 2007.02931).

Read for facts: henrikmarklund/arm e4a0ce2. Differences: a domain is a plate; its images are drawn without
replacement; at test time only batch norms use batch statistics, not dropout, and their buffers are put back
(--tta plate_bn). The paper's settings for RxRx1 are not published; two plates a batch are our settings. A
plate is cut at random into parts of at most as many images as a training batch has of it, 36 by default.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from abra_wilds.functional.losses import cross_entropies
from abra_wilds.methods.base import Method
from abra_wilds.types import Batch, BatchPlan, StepOutput


def logits_by_group(method: Method, batch: Batch) -> Tensor:
    """Logits (N, O) of a batch whose bio-batches go through the network one after the other.

    In training mode each is normalised by its own statistics, and running statistics take a step for each.
    """
    parts = [method.predict(batch.x[rows]) for rows in batch.groups]
    place = torch.cat(list(batch.groups)).argsort()  # (N,) where each row stands among the parts
    return torch.cat(parts)[place]


def mean_over_groups(losses: Tensor, groups: Sequence[Tensor], kept: Tensor | None = None) -> Tensor:
    """Mean over bio-batches of the mean loss in each, ().

    Args:
        losses: (N,).
        groups: the rows of each bio-batch.
        kept: (N,) bool, rows that count, at least one in each bio-batch; None for all.
    """
    if kept is None:
        return torch.stack([losses[rows].mean() for rows in groups]).mean()
    counted, weight = losses * kept, kept.to(losses.dtype)
    return torch.stack([counted[rows].sum() / weight[rows].sum() for rows in groups]).mean()


class ARMBN(Method):
    """Each plate of a batch is adapted to by its own batch statistics, in training as at test time.

    With one plate a batch this is AdaBN's training.
    """

    name = "ARM-BN"
    plain_forward = False
    plan = BatchPlan(
        "group",
        groupby_fields=("experiment", "plate"),
        n_groups=2,
        loaders=("group", "plate"),
        min_group_rows=2,
        tta="plate_bn",
        tta_support=True,
    )

    def forward(self, batch: Batch) -> StepOutput:
        """Mean over bio-batches of their mean cross-entropy."""
        logits = logits_by_group(self, batch)  # (N, O)
        return StepOutput(mean_over_groups(cross_entropies(logits, batch.target), batch.groups), logits)
