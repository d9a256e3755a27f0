"""Control-stabilised ARM-BN (Sanchez-Fernandez et al. 2026, arXiv 2604.20824).

Every batch carries control wells of its plate, and batch norm takes its statistics from both. Those of few
images or few classes alone would follow the classes, those of few controls alone the noise.

Read for facts: ml-jku/cs-arm-bn e091e7e. It draws 64 treated images and 128 negative controls of one plate
for each batch, of training and of evaluation, gives the controls no label, and takes 8 plates in a step.
Differences, because RxRx1 has one negative control a plate and scores controls as classes: all control wells
serve (30 positive, 1 negative, the same siRNAs on every plate); they are also dealt out and learned from like
any image, and a batch adds those of its plate that it does not hold, so that no image counts twice. At test
time the whole plate, its controls included, gives the statistics, as in their released model. One plate a
step and WILDS' optimiser are our settings; their step is --gradient_accumulation_steps 8.
"""

from __future__ import annotations

from abra_wilds.functional.losses import cross_entropies
from abra_wilds.methods.adaptive.arm_bn import logits_by_group, mean_over_groups
from abra_wilds.methods.base import Method
from abra_wilds.types import Batch, BatchPlan, StepOutput


class CSARMBN(Method):
    """ARM-BN whose batch statistics include control wells that the loss does not see."""

    name = "CS-ARM-BN"
    plain_forward = False
    plan = BatchPlan(
        "controls",
        groupby_fields=("experiment", "plate"),
        loaders=("controls",),
        min_group_rows=2,
        tta="plate_bn",
    )

    def forward(self, batch: Batch) -> StepOutput:
        """Mean over bio-batches of the mean cross-entropy of their rows outside the context."""
        logits = logits_by_group(self, batch)  # (N, O)
        kept = None if batch.context is None else ~batch.context
        loss = mean_over_groups(cross_entropies(logits, batch.target), batch.groups, kept)
        return StepOutput(loss, logits)
