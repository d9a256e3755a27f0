"""How far the certificates of a model's bio-batches are right, beside other estimates of accuracy.

Letters: n images of a bio-batch, O classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from abra_wilds.analysis.saved import Saved
from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.engine.evaluation.components import FEWEST_IMAGES, Split, labelled, saved_components
from abra_wilds.functional.calibration import (
    atc_threshold,
    conformal_quantile,
    difference_of_confidences,
    fit_temperature,
)
from abra_wilds.tta.certificate import Labelled, calibrate, certify, conformal_sets
from abra_wilds.tta.evidence import Calibration

FEWEST = 40  # images in question of a bio-batch whose accuracy is compared
LEVEL = 0.9
BINS = 10


@dataclass(frozen=True)
class Judged:
    """The certificate of a bio-batch against its labels.

    Attributes:
        split: such as "test".
        bio_batch: its name.
        controls: whether the classes of its controls were known.
        sites: whether it was known which images show one well.
        images: in question.
        accuracy: of their predictions.
        estimates: by name: ours, AC (mean confidence), AC at the one temperature of val, DoC, ATC, and
            val's accuracy, of the same predictions; last "own", the mean confidence at the temperature of the
            bio-batch's own labels, which nobody knows.
        low: end of our interval.
        high: end of our interval.
        trusted: whether nothing spoke against the predictions.
        level: of interval and sets.
        covered: images whose set holds their class.
        covered_by_one: the same with one threshold for all bio-batches (LAC).
        set_size: mean number of classes in a set.
        reliability: for confidence as it is and as certified, of each of 10 bins: images, right ones, and the
            sum of confidences.
    """

    split: str
    bio_batch: str
    controls: bool
    sites: bool
    images: int
    accuracy: float
    estimates: dict[str, float]
    low: float
    high: float
    trusted: bool
    level: float
    covered: int
    covered_by_one: int
    set_size: float
    reliability: dict[str, list[list[float]]] = field(repr=False)


@torch.no_grad()
def certified(saved: Saved, split: str = "test") -> list[Judged]:
    """Certificates of a split's bio-batches against their labels, by each kind of knowledge that it has.

    Args:
        saved: the model; its components are taken from beside it, or measured.
        split: of its data, which is not the one that calibrates.

    Raises:
        InputError: if the model or the data do not serve.
    """
    e = EvalConfig(tta="eb_bn", tta_group=saved.group, tta_controls="none")
    config = replace(saved.config, eval=e)
    kept = saved_components(saved.folder.model(saved.label), config, saved.setup, saved.method)
    components, names = kept.to(saved.setup.device), list(saved.members(split))
    found: list[Judged] = []
    for kind in ("none", "all"):
        with_controls = replace(config, eval=replace(e, tta_controls=kind))
        old = Split(with_controls, saved.setup, kept.measured_on)
        new = Split(with_controls, saved.setup, split, most=None)
        if kind == "all" and (new.controls is None or not bool((new.controls >= 0).any())):
            break
        val, test = (list(labelled(saved.method, components, s)) for s in (old, new))
        val = [b for b in val if len(b.labels) >= FEWEST_IMAGES]
        for sites in (True, False) if new.wells is not None else (False,):
            asked = [b if sites else replace(b, wells=None) for b in test]
            calibration = calibrate([b if sites else replace(b, wells=None) for b in val])
            found += [
                judged(split, name, sites, b, val, calibration)
                for name, b in zip(names, asked, strict=True)
                if int(in_question(b).sum()) >= FEWEST
            ]
    return found


def in_question(b: Labelled) -> Tensor:
    """The images (n,) whose class nobody knows."""
    return torch.ones(len(b.labels), dtype=torch.bool) if b.controls is None else ~b.controls


def judged(
    split: str, name: str, sites: bool, b: Labelled, val: Sequence[Labelled], calibration: Calibration
) -> Judged:
    """One bio-batch, by what those of val tell."""
    asked = in_question(b)
    known = None if b.controls is None else b.labels.where(b.controls, -1)
    c = certify(calibration, b.adapted, b.unadapted, b.wells, known, uncorrected=b.uncorrected, level=LEVEL)
    z, y = b.adapted[asked].double(), b.labels[asked]
    p = (z / c.temperature).softmax(1)
    right = z.argmax(1) == y
    sets = conformal_sets(p.log(), c.threshold)
    one = one_threshold(val)
    return Judged(
        split=split,
        bio_batch=name,
        controls=b.controls is not None,
        sites=sites,
        images=len(y),
        accuracy=float(right.double().mean()),
        estimates={"ours": c.accuracy, **other_estimates(z, y, val)},
        low=c.low,
        high=c.high,
        trusted=c.trusted,
        level=LEVEL,
        covered=int(sets.gather(1, y[:, None]).sum()),
        covered_by_one=int((1 - (z / one[0]).softmax(1).gather(1, y[:, None])[:, 0] <= one[1]).sum()),
        set_size=float(sets.double().sum(1).mean()),
        reliability={
            "as it is": binned(z.softmax(1).amax(1), right),
            "certified": binned(p.amax(1), right),
        },
    )


def pooled(bio_batches: Sequence[Labelled]) -> tuple[Tensor, Tensor]:
    """Logits and classes of all their images in question."""
    parts = [(b.adapted[in_question(b)].double(), b.labels[in_question(b)]) for b in bio_batches]
    return torch.cat([z for z, _ in parts]), torch.cat([y for _, y in parts])


def one_threshold(val: Sequence[Labelled]) -> tuple[float, float]:
    """LAC: one temperature, and the quantile of 1 - p(y)."""
    z, y = pooled(val)
    T = fit_temperature(z, y)
    return T, conformal_quantile(1 - (z / T).softmax(1).gather(1, y[:, None])[:, 0], LEVEL)


def other_estimates(z: Tensor, y: Tensor, val: Sequence[Labelled]) -> dict[str, float]:
    """Estimates of the accuracy of predictions with logits (n, O); the labels (n,) enter the last alone."""
    z_val, y_val = pooled(val)
    T, hit = fit_temperature(z_val, y_val), z_val.argmax(1) == y_val
    new, old = ((each / T).softmax(1).amax(1) for each in (z, z_val))
    return {
        "AC": float(z.softmax(1).amax(1).mean()),
        "AC at one T": float(new.mean()),
        "DoC": difference_of_confidences(old, hit, new),
        "ATC": float((new >= atc_threshold(old, hit)).double().mean()),
        "val": float(hit.double().mean()),
        "own": float((z / fit_temperature(z, y)).softmax(1).amax(1).mean()),
    }


def binned(confidence: Tensor, right: Tensor) -> list[list[float]]:
    """Images, right ones and summed confidence in each of 10 equal bins of confidence."""
    at = (confidence * BINS).long().clamp(0, BINS - 1)
    return [
        [int((at == k).sum()), int(right[at == k].sum()), round(float(confidence[at == k].sum()), 6)]
        for k in range(BINS)
    ]
