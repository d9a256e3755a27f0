"""Whether a perturbation does anything: how far it moves logits, against how far bio-batches lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from abra_wilds.types import StepContext

# Below this share of the distance between bio-batches a shift is reported as doing next to nothing.
LEAST_REACH = 0.1


class ShiftReach:
    """Measures the shift of every step's logits; all values are root mean squares over classes.

    Two bio-batches are as far apart as their mean logits. Their distance is taken between those of one batch
    or, where a batch holds one, from the batch before. What their images show, and how few there are, counts
    as distance too.
    """

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._last: Tensor | None = None

    @torch.no_grad()
    def measure(
        self, clean: Tensor, shifted: Tensor, groups: Sequence[Tensor], context: StepContext
    ) -> dict[str, Tensor]:
        """The logs of a step; none where they will not be read, nor a distance in the first step of an epoch.

        Args:
            clean: (N, O) logits.
            shifted: (N, O) logits of the same images.
            groups: the rows of each bio-batch.
            context: of the step.
        """
        centres = torch.stack([clean[rows].mean(0) for rows in groups])  # (G, O)
        # An epoch can be run again from its start, where nothing of the one before is known.
        if context.epoch != self._epoch:
            self._epoch, self._last = context.epoch, None
        last, self._last = self._last, centres[-1]
        if not context.log:
            return {}
        logs = {"logit_shift": (shifted - clean).square().mean().sqrt()}
        if len(centres) > 1:  # two differ by twice the variance of one
            logs["bio_batch_distance"] = (2 * centres.var(0)).mean().sqrt()
        elif last is not None:
            logs["bio_batch_distance"] = (centres[0] - last).square().mean().sqrt()
        return logs


def remark_on(logs: Mapping[str, float]) -> str | None:
    """A sentence on a shift that does next to nothing; None where it does something, or nothing is known.

    Args:
        logs: averages of what `ShiftReach` and the losses gave.
    """
    shift, distance = logs.get("logit_shift"), logs.get("bio_batch_distance")
    if shift is None or not distance or shift >= LEAST_REACH * distance:
        return None
    raised = 100 * (logs["L_shifted"] - logs["L_clean"]) / logs["L_clean"] if logs["L_clean"] else 0.0
    return (
        f"the perturbation does next to nothing: it moves logits by {shift:.2g} (rms), and known bio-batches "
        f"lie {distance:.2g} apart; it changes the loss by {raised:+.2g} %, and R_JS is {logs['R_JS']:.2g}; "
        "a larger --abra_k_init, and --abra_k_bound above it, move them more"
    )
