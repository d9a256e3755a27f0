"""How far the batch-norm statistics of bio-batches lie from the model's, layer by layer (ABRA, Fig. 8).

Whether test-time adaptation is advisable is asked of each bio-batch itself, without its labels (advice.py).

Letters: R reference bio-batches, L layers, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abra_wilds.analysis.advice import SOURCE, Shift
from abra_wilds.analysis.saved import IMAGES_PER_BIO_BATCH, Saved
from abra_wilds.data.samplers.batches import RowIds
from abra_wilds.engine.evaluation.components import saved_components
from abra_wilds.errors import InputError
from abra_wilds.functional.divergences import gaussian_kl_of_moments, gaussian_mmd2
from abra_wilds.functional.precision import in_float64
from abra_wilds.tta.advice import decide
from abra_wilds.tta.bn_state import buffers_put_back, statistics_of_input, tracking_norms
from abra_wilds.tta.eb_bn import adapt
from abra_wilds.tta.mix import no_labels
from abra_wilds.tta.plan import known_controls_of, well_ids
from abra_wilds.types import Batch

Statistics = dict[str, tuple[Tensor, Tensor]]  # layer -> mu and sigma, (C,) each


@torch.no_grad()
def bn_shift(saved: Saved, split: str = "test", images: int = IMAGES_PER_BIO_BATCH) -> list[Shift]:
    """Divergences of the statistics of bio-batches of train and a split from the model's and from train's.

    A bio-batch's statistics are those that AdaBN (--tta plate_bn) would put in place of the model's, so that
    each batch norm sees what the adapted ones before it made. All are of the same number of random images,
    because those of fewer lie farther away by chance. A training bio-batch gives two halves: to one, others
    are compared, and the other is compared, as other images of a known bio-batch.

    Args:
        saved: the model.
        split: that is compared with train.
        images: most images of a bio-batch or half.

    Raises:
        InputError: if the model has no batch norm, or a bio-batch fewer than --tta_min images a half.
    """
    if not tracking_norms(saved.method):
        raise InputError(
            f"{saved.config.algorithm} on {saved.config.model.model} has no batch norm, so there is no shift "
            "of its statistics; take a model with batch norms"
        )
    source, target = saved.members(SOURCE), saved.members(split)
    n = common_size(source, target, images, saved.config.eval.tta_min)
    references: list[Statistics] = []
    probes: list[tuple[str, str, Statistics, str]] = []
    advise = adviser(saved, split)
    rng = np.random.default_rng(saved.config.train.seed)
    for of, members, taken in ((SOURCE, source, 2 * n), (split, target, n)):
        parts = {name: rng.permutation(rows)[:taken] for name, rows in members.items()}
        for name, batch in saved.read(of, parts, "batch norms of"):
            x = saved.standardised(batch.x)
            if of == SOURCE:
                references.append(own_norms(saved, x[:n]))
            said = "" if of == SOURCE else advise(batch, x)
            probes.append((of, name, own_norms(saved, x[-n:]), said))
    return [
        Shift(of, name, n, *row, advice=said)
        for of, name, p, said in probes
        for row in distances(saved, p, references)
    ]


def adviser(saved: Saved, split: str) -> Callable[[Batch, Tensor], str]:
    """What says whether to adapt to a bio-batch by eb_bn: of some images, and these standardised.

    Where the model's components cannot be measured, as without images of val, it says nothing.
    """
    e = replace(saved.config.eval, tta="eb_bn", tta_group=saved.group, also_tta=())
    config = replace(saved.config, eval=e)
    try:
        kept = saved_components(saved.folder.model(saved.label), config, saved.setup, saved.method)
    except InputError:
        return lambda batch, x: ""
    components, subset = kept.to(saved.setup.device), saved.setup.subsets[split]
    controls, wells = known_controls_of(subset, e), well_ids(subset)

    def advise(batch: Batch, x: Tensor) -> str:
        at = batch.rows
        known = no_labels(at) if controls is None else controls[at]
        found = adapt(saved.method, [x], [known.to(x.device)], components=components)
        own = None if wells is None else wells[at]
        plain, logits = torch.cat(found.plain), torch.cat(found.logits)
        return decide(plain, logits, found.mix, known, own, components.calibration).words

    return advise


def common_size(source: Mapping[str, RowIds], target: Mapping[str, RowIds], images: int, least: int) -> int:
    """How many images every bio-batch and every half of a training bio-batch can give.

    Raises:
        InputError: if these are too few.
    """
    # A list and no dict: splits may share the names of bio-batches.
    sizes = [(len(rows) // 2, name) for name, rows in source.items()]
    sizes += [(len(rows), name) for name, rows in target.items()]
    size, name = min(sizes, key=itemgetter(0))
    if min(images, size) < least:
        raise InputError(
            f"{name} has {size} images to take statistics of (a training bio-batch half of its own), and "
            f"--tta_min is {least}; group by --tta_group experiment, or take larger bio-batches"
        )
    return min(images, size)


def own_norms(saved: Saved, x: Tensor) -> Statistics:
    """The statistics of some standardised images at every batch norm that predicts."""
    tracking = set(tracking_norms(saved.method))
    norms = {name: m for name, m in saved.method.named_modules() if m in tracking}
    before = {name: m.running_mean for name, m in norms.items()}
    with buffers_put_back(saved.method), statistics_of_input(saved.method):
        saved.method.predict(x)
        return {name: of_norm(m) for name, m in norms.items() if m.running_mean is not before[name]}


def of_norm(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch norm in evaluation mode normalises by, in double precision."""
    return in_float64(norm.running_mean), (in_float64(norm.running_var) + norm.eps).sqrt()


def distances(
    saved: Saved, p: Statistics, references: Sequence[Statistics]
) -> Iterator[tuple[str, int, float, float, float, float]]:
    """Layer, depth, KL and MMD to the model, KL and MMD to the nearest reference, for every layer."""
    model = [tuple(s[None] for s in of_norm(saved.method.get_submodule(name))) for name in p]
    seen = [tuple(torch.stack([r[name][k] for r in references]) for k in (0, 1)) for name in p]
    columns: list[Tensor] = []
    for others in (model, seen):
        pairs = list(zip(p.values(), others, strict=True))
        kl = torch.stack([gaussian_kl_of_moments(*own, *q).mean(1) for own, q in pairs])  # (L, R)
        mmd = torch.stack([gaussian_mmd2(*own, *q).mean(1).sqrt() for own, q in pairs])
        columns += [d[:, d.mean(0).argmin()] for d in (kl, mmd)]
    for depth, (name, row) in enumerate(zip(p, torch.stack(columns, 1).tolist(), strict=True)):
        yield name.removeprefix("net.stages."), depth, *row
