"""Whether test-time adaptation is advisable, from shifts of batch-norm statistics alone; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abra_wilds.config.evaluation import ADVICE

QUANTILE = 0.95
SOURCE = "train"


@dataclass(frozen=True)
class Shift:
    """How far one batch norm's statistics of one bio-batch lie from others.

    KL is the mean over channels, in nats; MMD the root of the mean squared one over channels.

    Attributes:
        split: the bio-batch's.
        bio_batch: its name.
        images: whose statistics these are.
        layer: name of the batch norm, such as "res1.0.bn1".
        depth: its place among those that predict, from 0.
        kl: KL(bio-batch || model).
        mmd: MMD to the model.
        kl_near: KL(bio-batch || training bio-batch), of the one that is nearest over all layers.
        mmd_near: MMD to the one that is nearest by MMD.
        advice: whether to adapt to the bio-batch, from what it shows itself; empty where that is not asked.
    """

    split: str
    bio_batch: str
    images: int
    layer: str
    depth: int
    kl: float
    mmd: float
    kl_near: float
    mmd_near: float
    advice: str = ""


@dataclass(frozen=True)
class Advice:
    """Whether test-time adaptation is advisable.

    Attributes:
        advisable: None where KL and MMD disagree.
        sentence: which says so, and why.
    """

    advisable: bool | None
    sentence: str


def advice(shifts: Sequence[Shift], target: str = "test") -> Advice:
    """Whether test-time adaptation is advisable for a split.

    Where its bio-batches have advice of their own, the majority of it decides, and distances say no more than
    how new they are: a class mix that differs makes a distance, too. Otherwise distances decide.

    The rule is ours. How new a bio-batch is to the model is the mean over layers of its divergence from the
    nearest training bio-batch, in units of the layer's median over other halves of training bio-batches.
    Adaptation is advisable if more than half of the target's bio-batches are newer than 95 % of those halves,
    by KL and by MMD; not advisable if neither says so. Divergence from the model's own statistics would not
    do: cell lines lie far from them in training already.

    Args:
        shifts: from `bn_shift`.
        target: the split that may be adapted to.
    """
    beyond, times = {}, {}
    for name in ("kl_near", "mmd_near"):
        here, there = (newness(shifts, name, split) for split in (SOURCE, target))
        beyond[name] = int((there > np.quantile(here, QUANTILE)).sum())
        times[name] = float(np.median(there) / np.median(here))
    n, (kl, mmd) = len(there), beyond.values()
    counts = (
        f"{kl} of {n} bio-batches of {target} by KL, and {mmd} by MMD, lie farther from all training "
        f"bio-batches than {QUANTILE:.0%} of other images of training bio-batches do (median "
        f"{times['kl_near']:.1f} and {times['mmd_near']:.1f} times as far)"
    )
    said = {s.bio_batch: s.advice for s in shifts if s.split == target and s.advice}
    if said:
        each = [list(said.values()).count(words) for words in ADVICE]
        adapt = True if 2 * each[0] > len(said) else False if 2 * each[1] > len(said) else None
        decided = f"adapt to {each[0]} of {len(said)} bio-batches of {target}, not to {each[1]}"
        tail = "" if not each[2] else f"; {each[2]} do not tell"
        return Advice(
            adapt, f"By what they show themselves, with --tta eb_bn: {decided}{tail}. Shifts: {counts}."
        )
    if 2 * min(kl, mmd) > n:
        return Advice(True, f"TTA is advisable for this data, because {counts}.")
    if 2 * max(kl, mmd) <= n:
        tail = "what the model has seen fits them, and statistics of single bio-batches would add noise"
        return Advice(False, f"TTA is not advisable for this data, because only {counts}: {tail}.")
    sentence = "Whether TTA is advisable for this data is open, because KL and MMD disagree"
    return Advice(None, f"{sentence}: {counts}; compare predictions of val with and without it.")


def newness(shifts: Sequence[Shift], name: str, split: str) -> np.ndarray:
    """Of each bio-batch of a split (n,): the mean over layers of its divergence / training's median."""
    table: dict[tuple[str, str], list[float]] = {}
    for s in shifts:
        table.setdefault((s.split, s.bio_batch), []).append(getattr(s, name))

    def values(of: str) -> np.ndarray:
        return np.array([row for key, row in table.items() if key[0] == of])

    return np.asarray((values(split) / np.median(values(SOURCE), axis=0)).mean(1))
