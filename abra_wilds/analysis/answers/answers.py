"""What a model says of the sites of a screen, bio-batch by bio-batch.

Letters: n sites, O classes, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from abra_wilds.analysis.answers.screens import Flags, plan_of_screen
from abra_wilds.config.evaluation import LOGIT_TTA, EvalConfig
from abra_wilds.data.augment.transforms import resize
from abra_wilds.data.datasets.catalogue import make_grouper
from abra_wilds.data.reading.images import read_image
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.data.samplers.passes import BioBatch, PassSampler
from abra_wilds.engine.artifacts.logs import no_bar
from abra_wilds.engine.evaluation.certificates import (
    Certifying,
    PlateCertificate,
    bio_batch_name,
    certificate_of,
)
from abra_wilds.engine.models.model import Model
from abra_wilds.engine.setup import reading_kwargs
from abra_wilds.tta.adapters import running_statistics
from abra_wilds.tta.plan import check_plans, known_controls_of, well_ids

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSSubset

    from abra_wilds.data.screens.dataset import ScreenDataset

READ_BYTES = 1 << 26  # of images that a worker process hands over together


@dataclass(frozen=True)
class Answers:
    """What a model says of the sites of a screen, in the screen's order.

    Attributes:
        logits: (n, O) float32.
        features: (n, D) float32, what the classifier read.
        statistics: (n,) number of images whose statistics or predictions were taken together; 0 for those of
            training.
        temperature: (n,) by which logits are calibrated, 1 where none is known.
        certificates: of bio-batches, where the model has them.
        of: (n,) the number of each site's certificate, -1 without.
    """

    logits: Tensor
    features: Tensor
    statistics: Tensor
    temperature: Tensor
    certificates: list[PlateCertificate]
    of: Tensor


def answers_of(
    model: Model, dataset: ScreenDataset, e: EvalConfig, part: str = "", flags: Flags | None = None
) -> Answers:
    """Predict every site of a screen, bio-batch by bio-batch.

    Args:
        model: with the channels of the screen.
        dataset: the screen.
        e: which adaptation.
        part: name of the part of a screen that this is; of a part nothing need be adapted.
        flags: images with a reason of their own are predicted without adaptation, and no other by them.

    Raises:
        InputError: if nothing could be adapted, or an image cannot be read.
    """
    from wilds.datasets.wilds_dataset import WILDSSubset

    subset = WILDSSubset(dataset, np.arange(len(dataset)), transform=None)
    plan = plan_of_screen(dataset, e, model.config.data.batch_size, flags)
    if e.tta != "none" and not part:
        check_plans({"the screen": plan}, e)
    n, C = len(dataset), len(model.classes)
    found = Answers(
        torch.zeros(n, C),
        torch.zeros(n, model.method.head.in_features),
        torch.zeros(n, dtype=torch.int64),
        torch.ones(n, dtype=torch.float64),
        [],
        torch.full((n,), -1),
    )
    adapter = model.adapter(e)
    adapter = Certifying(model.check_components(e)) if e.needs_components else adapter
    known, wells = known_controls_of(subset, e), well_ids(subset)
    known = torch.full((n,), -1) if known is None else known
    for group, images in read(model, subset, plan, part or "screen"):
        how = adapter if group.adapted else running_statistics
        rows = [torch.as_tensor(part) for part in group.passes]
        logits, features = model.passed(how, images, [known[part].to(model.device) for part in rows])
        at = torch.cat(rows)
        found.logits[at], found.features[at] = torch.cat(logits), torch.cat(features)
        found.statistics[at] = torch.cat(statistics_of(group, e))
        if isinstance(how, Certifying):
            certify(found, how, subset, at, None if wells is None else wells[at])
    return found


def read(
    model: Model, subset: WILDSSubset, plan: list[BioBatch], named: str
) -> Iterator[tuple[BioBatch, list[Tensor]]]:
    """The images of each pass of each bio-batch, already of the model's size where it has one.

    A plate waits on the host whole where a model is adapted to it: 768 sites of five channels are 1 GB at 256
    pixels, and 9 GB as a microscope writes them. So they are resized as they arrive, few at a time.
    """
    d = model.config.data
    grouper = make_grouper(subset.dataset, ("experiment", "plate"))
    nbytes = read_image(subset.dataset, 0).nbytes
    sampler = PassSampler(plan, min(d.batch_size, max(READ_BYTES // nbytes, 1)))
    batches = iter(Loader(subset, grouper, sampler, **reading_kwargs(d, model.device)))
    off = no_bar(model.config.train)
    bar = tqdm(total=len(subset), desc=named, unit="images", leave=named == "screen", disable=off)
    with bar:
        for group, reads in zip(plan, sampler.reads, strict=True):
            passes = []
            for n in reads:
                parts = [resize(batch.x, d.size) for batch in islice(batches, n)]
                passes.append(torch.cat(parts))
                bar.update(len(passes[-1]))
            yield group, passes


def statistics_of(group: BioBatch, e: EvalConfig) -> list[Tensor]:
    """How many images each site's statistics or predictions were taken of, pass by pass."""
    sizes = [len(part) for part in group.passes]
    if not group.adapted:
        used = [0] * len(sizes)
    elif e.tta == "controls_bn":
        used = sizes[:1] * len(sizes)
    elif e.needs_components or e.tta in LOGIT_TTA:
        used = [len(group)] * len(sizes)
    else:
        used = sizes
    return [torch.full((size,), k) for size, k in zip(sizes, used, strict=True)]


def certify(found: Answers, how: Certifying, subset: WILDSSubset, at: Tensor, wells: Tensor | None) -> None:
    """Add the certificate of the bio-batch that was predicted last, and its temperature."""
    ((outcome, known),) = how.outcomes
    how.outcomes = []
    if bool((known >= 0).all()) or how.components.calibration is None:
        return
    name = bio_batch_name(subset, int(at[0]), how.components.group)
    row = certificate_of("screen", name, outcome, known, wells, how.components)
    found.of[at], found.temperature[at] = len(found.certificates), row.temperature
    found.certificates.append(row)
