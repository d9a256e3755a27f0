"""Whether a bio-batch should be adapted to: a decision from what it shows itself, without labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from abra_wilds.config.evaluation import ADVICE
from abra_wilds.tta.evidence import Calibration, pairs_of
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
    LABELLED changes at most, predictions of controls, and wells whose two sites adaptation brings together or
    apart. Sites agree by chance where one class is predicted for most images, so that wells count only if
    Cohen's kappa says the same. The advice is to adapt, unless a sign test of all of them speaks against it.

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
    reasons, better, worse = [], 0.0, 0.0
    for what, gained, lost, weight in evidence(before, after, known, wells, calibration):
        reasons.append(f"{what} gain {gained} and lose {lost}")
        better, worse = better + weight * gained, worse + weight * lost
    sign = (better - worse) / math.sqrt(max(better + worse, 1))
    adapt = True if sign >= AGAINST else False if sign < CLEAR else None
    return Decision(adapt, "; ".join(reasons) or "nothing speaks against it", changed)


def evidence(
    before: Tensor, after: Tensor, known: Tensor, wells: Tensor | None, calibration: Calibration | None
) -> Iterator[tuple[str, int, int, float]]:
    """What shows how many changes of predictions (n,) are for better and for worse, and its weight."""
    if calibration is not None and (changes := calibration.gained + calibration.lost):
        weight = min(1.0, LABELLED / changes)
        yield "labelled bio-batches", calibration.gained, calibration.lost, weight
    is_control = known >= 0
    was, now = ((p == known)[is_control] for p in (before, after))
    if is_control.any():
        yield f"{len(was)} controls", int((now & ~was).sum()), int((was & ~now).sum()), 1.0
    i, j = pairs_of(wells)
    was, now = before[i] == before[j], after[i] == after[j]
    gained, lost = int((now & ~was).sum()), int((was & ~now).sum())
    if (gained - lost) * (kappa(after, i, j) - kappa(before, i, j)) > 0:
        yield f"{len(was)} wells of two equal sites", gained, lost, 1.0


def kappa(classes: Tensor, i: Tensor, j: Tensor) -> float:
    """Cohen's kappa of the predictions (n,) of pairs of images: agreement beyond that of chance."""
    if not len(i):
        return 0.0
    shares = torch.bincount(classes).double() / len(classes)
    chance = float((shares**2).sum())
    return (float((classes[i] == classes[j]).double().mean()) - chance) / max(1 - chance, 1e-12)
