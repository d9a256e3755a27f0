"""Certificates of the bio-batches of a split, with the advice whether to adapt, beside its predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from abra_wilds.config.datasets import TTA_GROUPS
from abra_wilds.data.samplers.passes import PassSampler
from abra_wilds.dist import all_gather
from abra_wilds.engine.setup import Evaluation
from abra_wilds.methods.base import Method
from abra_wilds.results.files import csv_text, write_text
from abra_wilds.results.records import counted
from abra_wilds.tta.advice import decide
from abra_wilds.tta.certificate import certify
from abra_wilds.tta.components import Components
from abra_wilds.tta.eb_bn import Outcome, adapt
from abra_wilds.tta.mix import no_labels
from abra_wilds.tta.plan import well_ids

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSSubset


@dataclass(frozen=True)
class PlateCertificate:
    """What is known of the predictions of one bio-batch, without its labels.

    Attributes:
        split: such as "test".
        bio_batch: its name.
        images: whose classes were in question.
        accuracy: estimated, with its interval.
        low: end of the interval.
        high: end of the interval.
        level: of the interval and of conformal sets.
        trusted: whether nothing speaks against the predictions.
        reason: what does.
        temperature: T, such that softmax(logits / T) is calibrated.
        threshold: least calibrated probability of a class in an image's conformal set.
        class_mix: spread V of the class mix from that of training.
        changed: share of the predictions that adaptation changed.
        advice: "adapt", "do not adapt" or "cannot tell".
        because: of what.
    """

    split: str
    bio_batch: str
    images: int
    accuracy: float
    low: float
    high: float
    level: float
    trusted: bool
    reason: str
    temperature: float
    threshold: float
    class_mix: float
    changed: float
    advice: str
    because: str


class Certifying:
    """The adapter of eb_bn, which keeps what became of each bio-batch.

    Args:
        components: of the method, on its device.

    Attributes:
        outcomes: of the bio-batches of this process, in their order, and class ids that were known (n,).
        certificates: of each split that is concluded.
    """

    def __init__(self, components: Components):
        self.components = components
        self.outcomes: list[tuple[Outcome, Tensor]] = []
        self.certificates: dict[str, list[PlateCertificate]] = {}

    def __call__(
        self, method: Method, passes: Iterable[Tensor], known: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Logits (N, O) of each pass."""
        found = adapt(method, passes, known, components=self.components)
        labels = torch.cat(list(known) or [no_labels(z) for z in found.plain])
        self.outcomes.append((found, labels.cpu()))
        return found.logits

    def conclude(self, setup: Evaluation, split: str) -> None:
        """Certify the bio-batches of a split, those of all processes; what was kept of them is given up."""
        loader = setup.eval_loaders[split]
        outcomes, self.outcomes = self.outcomes, []
        plan = loader.sampler.plan if isinstance(loader.sampler, PassSampler) else ()
        wells = well_ids(setup.subsets[split])
        rows = []
        adapted = [group for group in plan if group.adapted]
        for group, (found, known) in zip(adapted, outcomes, strict=True):
            at = torch.cat([torch.as_tensor(part) for part in group.passes])
            if bool((known >= 0).all()):
                continue
            name = bio_batch_name(setup.subsets[split], int(at[0]), self.components.group)
            own = None if wells is None else wells[at]
            rows.append(certificate_of(split, name, found, known, own, self.components))
        self.certificates[split] = [row for share in all_gather(rows) for row in share]


def certificate_of(
    split: str, name: str, found: Outcome, known: Tensor, wells: Tensor | None, components: Components
) -> PlateCertificate:
    """The certificate of one bio-batch.

    Args:
        split: such as "test".
        name: of the bio-batch.
        found: what became of it.
        known: (n,) class ids of controls, -1 of all other images.
        wells: (n,) ids of wells, or None.
        components: with a calibration.
    """
    if components.calibration is None:
        raise ValueError("these components have no calibration")
    plain, logits, before = (torch.cat(z).cpu() for z in (found.plain, found.logits, found.uncorrected))
    controls = known if bool((known >= 0).any()) else None
    c = certify(components.calibration, logits, plain, wells, controls, uncorrected=before)
    decision = decide(plain, logits, found.mix, known, wells, components.calibration)
    return PlateCertificate(
        split,
        name,
        c.n,
        *(c.accuracy, c.low, c.high, c.level, c.trusted, c.reason, c.temperature, c.threshold),
        0.0 if found.mix is None else found.mix.spread,
        decision.changed,
        decision.words,
        decision.reason,
    )


def bio_batch_name(subset: WILDSSubset, row: int, group: str) -> str:
    """Name of the bio-batch of a row, such as "HEPG2-08 plate 1"."""
    known, names = list(subset.metadata_fields), []
    for field in TTA_GROUPS[group]:
        value = int(subset.metadata_array[row, known.index(field)])
        texts = subset.dataset.metadata_map.get(field)
        names.append(str(value) if texts is None else str(texts[value]))
    return " plate ".join(names)


def certificates_path(predictions: Path) -> Path:
    """Where the certificates of a split's predictions are."""
    return predictions.with_name(predictions.name.replace("_pred.csv", "_certificates.csv"))


def write_certificates(path: Path, rows: Sequence[PlateCertificate]) -> None:
    """Write certificates as a csv file; without a bio-batch there is none to write."""
    if rows:
        write_text(path, csv_text([asdict(row) for row in rows]))


def certificate_line(split: str, rows: Sequence[PlateCertificate]) -> str:
    """What the certificates of a split say, for the log."""
    if not rows:
        return f"No bio-batch of {split} has a certificate"
    mean = fmean([row.accuracy for row in rows], [row.images for row in rows])
    doubtful = [row.bio_batch for row in rows if not row.trusted]
    trust = (
        f"{len(doubtful)} are not to be trusted ({', '.join(doubtful[:5])})"
        if doubtful
        else "all are trusted"
    )
    over = counted(len(rows), "bio-batch", "es")
    return f"Estimated accuracy of {split}, without its labels: {mean:.1%} over {over}; {trust}"
