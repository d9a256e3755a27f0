"""Whether a bio-batch should be adapted to: a decision from what it shows itself, without labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from abra_wilds.config.evaluation import ADVICE
from abra_wilds.tta.evidence import Calibration, changed_wells, pairs_of
from abra_wilds.tta.mix import Mix

WORDS = dict(zip((True, False, None), ADVICE, strict=True))
# Standard deviations of a sign test: from AGAINST on nothing speaks against adaptation, which by itself hurts
# rarely (docs/adaptation.md), and below CLEAR it is clear that it hurts here.
AGAINST, CLEAR = -1.0, -1.64
LABELLED = 20  # changes of predictions that labelled bio-batches count as, at most


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
        return WORDS[self.adapt]


def decide(
    plain: Tensor,
    adapted: Tensor,
    mix: Mix | None,
    known: Tensor,
    wells: Tensor | None = None,
    calibration: Calibration | None = None,
) -> Decision:
    """Decide for a bio-batch.

    Counted are changes for better and for worse: predictions of labelled bio-batches of val, together worth
    LABELLED changes at most, predictions of controls, and wells whose two sites agree with adaptation alone,
    or without it alone. Sites share more than their class, so such a well counts as far as it was right in
    labelled bio-batches. The advice is to adapt, unless a sign test of all of them speaks against it.

    Args:
        plain: (n, O) logits without adaptation.
        adapted: (n, O) logits with it.
        mix: that adaptation took for the bio-batch's; None where it is one image.
        known: (n,) class ids of controls, -1 of all other images.
        wells: (n,) ids; images of one well show one class. None where it is not known.
        calibration: with what adaptation changed on labelled bio-batches; None where there is none.
    """
    before, after = plain.argmax(1).cpu(), adapted.argmax(1).cpu()
    known, changed = known.cpu(), float((before != after).double().mean())
    if mix is None:
        return Decision(None, "one image shows no statistics of a bio-batch", changed)
    found = list(evidence(before, after, known, wells, calibration))
    better, worse = (sum(e.weights[k] * e.counts[k] for e in found) for k in (0, 1))
    sign = (better - worse) / math.sqrt(max(better + worse, 1))
    adapt = True if sign >= AGAINST else False if sign < CLEAR else None
    reason = "; ".join(f"{e.what} gain {e.counts[0]} and lose {e.counts[1]}" for e in found)
    if adapt and sign <= 0:
        reason = f"nothing speaks clearly against it: {reason}" if reason else "nothing speaks against it"
    return Decision(adapt, reason, changed)


@dataclass(frozen=True)
class Changes:
    """What adaptation changes for better and for worse.

    Attributes:
        what: has changed.
        counts: of what is gained and lost.
        weights: of one that is gained, and of one that is lost.
    """

    what: str
    counts: tuple[int, int]
    weights: tuple[float, float]


def evidence(
    before: Tensor, after: Tensor, known: Tensor, wells: Tensor | None, calibration: Calibration | None
) -> Iterator[Changes]:
    """What shows whether changes of predictions (n,) are for better or for worse."""
    if calibration is not None and (changes := calibration.gained + calibration.lost):
        weight = min(1.0, LABELLED / changes)
        yield Changes("labelled bio-batches", (calibration.gained, calibration.lost), (weight, weight))
    is_control = known >= 0
    was, now = ((p == known)[is_control] for p in (before, after))
    if is_control.any():
        yield Changes(f"{len(was)} controls", (int((now & ~was).sum()), int((was & ~now).sum())), (1.0, 1.0))
    joined, parted = changed_wells(before, after, pairs_of(wells))
    if calibration is not None and len(joined) + len(parted):
        weights = (calibration.joined_right, calibration.parted_right)
        yield Changes("wells of two equal sites", (len(joined), len(parted)), weights)
