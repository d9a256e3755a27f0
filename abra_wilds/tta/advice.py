"""Whether a bio-batch should be adapted to: a decision from what it shows itself, without labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from abra_wilds.tta.evidence import pairs_of
from abra_wilds.tta.mix import Mix

CLEAR_SIGN = 1.64  # standard deviations of a sign test, 5 % on either side
UNUSUAL = 0.3  # spread of a class mix from which on little is left of the shift to remove


@dataclass(frozen=True)
class Decision:
    """Whether to adapt to a bio-batch.

    Attributes:
        adapt: None where nothing tells.
        reason: one clause.
        changed: share of the predictions that adaptation changes.
    """

    adapt: bool | None
    reason: str
    changed: float

    @property
    def words(self) -> str:
        """The decision in words."""
        return {True: "adapt", False: "do not adapt", None: "cannot tell"}[self.adapt]


def decide(
    plain: Tensor, adapted: Tensor, mix: Mix | None, known: Tensor, wells: Tensor | None = None
) -> Decision:
    """Decide for a bio-batch.

    Controls and wells are asked first: predictions that adaptation sets right or wrong, and wells whose two
    sites it brings together or apart, by a sign test. If they say nothing clear, the class mix decides.

    Args:
        plain: (n, O) logits without adaptation.
        adapted: (n, O) logits with it.
        mix: that adaptation took for the bio-batch's; None where it is one image.
        known: (n,) class ids of controls, -1 of all other images.
        wells: (n,) ids; images of one well show one class. None where it is not known.
    """
    before, after = plain.argmax(1).cpu(), adapted.argmax(1).cpu()
    known, changed = known.cpu(), float((before != after).double().mean())
    if mix is None:
        return Decision(None, "one image shows no statistics of a bio-batch", changed)
    if changed == 0:
        return Decision(False, "adaptation changes no prediction", changed)
    is_control = known >= 0
    i, j = pairs_of(wells)
    for what, was, now in (
        ("controls", (before == known)[is_control], (after == known)[is_control]),
        ("wells of two equal sites", before[i] == before[j], after[i] == after[j]),
    ):
        gained, lost = int((now & ~was).sum()), int((was & ~now).sum())
        sign = (gained - lost) / math.sqrt(max(gained + lost, 1))
        if abs(sign) > CLEAR_SIGN:
            return Decision(sign > 0, f"of {len(was)} {what} it gains {gained} and loses {lost}", changed)
    if mix.spread > UNUSUAL:
        return Decision(None, f"its class mix is unusual (spread {mix.spread:.2f})", changed)
    return Decision(True, f"its class mix is near that of training (spread {mix.spread:.2f})", changed)
