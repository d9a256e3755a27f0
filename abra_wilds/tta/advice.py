"""Whether a bio-batch should be adapted to: a decision from what it shows itself, without labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
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
    sites it brings together or apart, by a sign test. Sites agree by chance where one class is predicted for
    most images, so that wells count only if Cohen's kappa says the same. If neither says anything clear,
    the class mix decides.

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
    beyond_chance = kappa(after, i, j) - kappa(before, i, j)
    for what, was, now, direction in (
        ("controls", (before == known)[is_control], (after == known)[is_control], None),
        ("wells of two equal sites", before[i] == before[j], after[i] == after[j], beyond_chance),
    ):
        gained, lost = int((now & ~was).sum()), int((was & ~now).sum())
        sign = (gained - lost) / math.sqrt(max(gained + lost, 1))
        if abs(sign) > CLEAR_SIGN and (direction is None or sign * direction > 0):
            return Decision(sign > 0, f"of {len(was)} {what} it gains {gained} and loses {lost}", changed)
    if mix.spread > UNUSUAL:
        return Decision(None, f"its class mix is unusual (spread {mix.spread:.2f})", changed)
    return Decision(True, f"its class mix is near that of training (spread {mix.spread:.2f})", changed)


def kappa(classes: Tensor, i: Tensor, j: Tensor) -> float:
    """Cohen's kappa of the predictions (n,) of pairs of images: agreement beyond that of chance."""
    if not len(i):
        return 0.0
    shares = torch.bincount(classes).double() / len(classes)
    chance = float((shares**2).sum())
    return (float((classes[i] == classes[j]).double().mean()) - chance) / max(1 - chance, 1e-12)
