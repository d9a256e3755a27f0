"""Which images share statistics: the bio-batches and passes of a split, and the count of them for the log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from abra_wilds.config.datasets import TTA_GROUPS
from abra_wilds.config.evaluation import CUT_TTA, LOGIT_TTA, ONLINE_BATCH, ONLINE_TTA, EvalConfig
from abra_wilds.data.datasets.catalogue import make_grouper
from abra_wilds.data.datasets.controls import control_rows, has_controls
from abra_wilds.data.samplers.batches import RowIds, SequentialSampler, even_chunks, members_of
from abra_wilds.data.samplers.passes import BioBatch
from abra_wilds.errors import InputError

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSSubset


def split_plan(subset: WILDSSubset, e: EvalConfig, batch_size: int) -> list[BioBatch]:
    """The bio-batches of a split and their passes, for any --tta but none.

    A bio-batch is what the split has of it: of an experiment, id_test has the second site alone. One that is
    larger than --tta_batch_size is cut at random, because dataset order would make single plates of the parts
    of an experiment; the draw depends on the bio-batch alone. What corrects predictions takes them of the
    whole bio-batch, whose passes have --batch_size images.

    Args:
        subset: the split.
        e: which adaptation.
        batch_size: --batch_size.

    Raises:
        InputError: if batches are too small, or it is not known which wells are controls.
    """
    if e.tta == "batch_bn":
        return batch_plan(len(subset), e, batch_size)
    grouper = make_grouper(subset.dataset, TTA_GROUPS[e.tta_group])
    members = members_of(grouper.metadata_to_group(subset.metadata_array).numpy())
    is_control = np.zeros(len(subset), dtype=bool)
    if e.tta == "controls_bn":
        is_control = control_rows(subset.dataset, e.tta_controls)[np.asarray(subset.indices)]
    return [bio_batch_plan(rows, e, is_control[rows], batch_size, group) for group, rows in members.items()]


def bio_batch_plan(
    rows: RowIds, e: EvalConfig, is_control: np.ndarray, batch_size: int, seed: int
) -> BioBatch:
    """The passes of one bio-batch, for any --tta but none and batch_bn.

    Args:
        rows: (n,) of the bio-batch.
        e: which adaptation.
        is_control: (n,) which of them show controls, for controls_bn.
        batch_size: most images of a pass in which they do not meet.
        seed: of the cut.
    """
    if e.tta == "controls_bn":
        return controls_plan(rows, is_control, e.tta_min, batch_size)
    whole = e.tta in LOGIT_TTA
    parts = tuple(even_chunks(rows, batch_size)) if whole else random_parts(rows, most_together(e), seed)
    return BioBatch(parts, len(rows) >= e.tta_min)


def most_together(e: EvalConfig) -> float:
    """The most images of a bio-batch in one pass."""
    learning = max(ONLINE_BATCH, 2 * e.tta_min) if e.tta in ONLINE_TTA else math.inf
    return e.tta_batch_size or learning


def known_controls_of(subset: WILDSSubset, e: EvalConfig) -> Tensor | None:
    """Class ids (n,) of the controls of a split that --tta may know, -1 of all other rows; None if none.

    The class of a control well is known from the layout of its plate.
    """
    if e.tta != "eb_bn" or not has_controls(subset.dataset):
        return None
    is_control = torch.from_numpy(control_rows(subset.dataset, e.tta_controls)[np.asarray(subset.indices)])
    return torch.where(is_control, subset.y_array, -1)


def well_ids(subset: WILDSSubset) -> Tensor | None:
    """A number for each row's well, (n,); None where wells of the data set show several classes."""
    fields = list(subset.metadata_fields)
    if not {"experiment", "plate", "well"} <= set(fields):
        return None
    at = [fields.index(name) for name in ("experiment", "plate", "well")]
    whole = subset.dataset.metadata_array[:, at]
    wells, of = torch.unique(whole, dim=0, return_inverse=True)
    classes = torch.unique(torch.stack([of, subset.dataset.y_array], 1), dim=0)
    return of[torch.as_tensor(subset.indices)] if len(classes) == len(wells) else None


def random_parts(rows: RowIds, most: float, seed: int) -> tuple[RowIds, ...]:
    """Near-equal parts of at most `most` rows each, drawn by the seed; rows of a part in dataset order."""
    if len(rows) <= most:
        return (rows,)
    order = np.random.default_rng(seed).permutation(len(rows))
    return tuple(rows[np.sort(part)] for part in even_chunks(order, int(most)))


def check_plans(plans: Mapping[str, Sequence[BioBatch]], e: EvalConfig) -> None:
    """Raise where no bio-batch of a split is large enough: its record would name an adaptation of no image.

    Args:
        plans: of each split.
        e: which adaptation.

    Raises:
        InputError: with the split and what to change.
    """
    what = "controls" if e.tta == "controls_bn" else "images"
    unit = {"batch_bn": "batches"}.get(e.tta, f"{e.tta_group}s")
    larger = e.tta != "batch_bn" and e.tta_group == "plate"
    for split, plan in plans.items():
        if not any(group.adapted for group in plan):
            raise InputError(
                f"--tta {e.tta} would adapt no image of {split}, since none of its {len(plan)} {unit}, of up "
                f"to {max(map(len, plan))} images, has --tta_min {e.tta_min} {what}; lower --tta_min, "
                f"{'use --tta_group experiment, ' if larger else ''}or leave {split} or --tta out"
            )


def batch_plan(n: int, e: EvalConfig, batch_size: int) -> list[BioBatch]:
    """The batches of n rows in dataset order, each for itself.

    Raises:
        InputError: if none has --tta_min images.
    """
    size = e.tta_batch_size or batch_size
    if size < e.tta_min:
        raise InputError(
            f"--tta batch_bn with batches of {size} images would never use their statistics, since --tta_min "
            f"is {e.tta_min}; raise --tta_batch_size or lower --tta_min"
        )
    return [BioBatch((batch.rows,), len(batch) >= e.tta_min) for batch in SequentialSampler(n, size)]


def controls_plan(rows: RowIds, is_control: np.ndarray, least: int, batch_size: int) -> BioBatch:
    """A bio-batch with its controls in the first pass, all of them; the others follow in any number.

    Args:
        rows: (n,) of the bio-batch.
        is_control: (n,) which of them show controls.
        least: controls that are needed.
        batch_size: most images of the other passes.
    """
    controls, others = rows[is_control], rows[~is_control]
    if len(controls) < least:
        return BioBatch(tuple(even_chunks(rows, batch_size)), False)
    return BioBatch((controls, *(even_chunks(others, batch_size) if len(others) else ())), True)


@dataclass(frozen=True)
class Tally:
    """What a split's predictions were adapted with.

    Attributes:
        images: of the split.
        bio_batches: of the split; for batch_bn, batches.
        passes: forward passes.
        sources: (fewest, most) images whose statistics or predictions were taken together; (0, 0) for none.
        cut: bio-batches that were cut, each part with its own statistics.
        unadapted: images predicted as without adaptation, because there were fewer than --tta_min.
    """

    images: int
    bio_batches: int
    passes: int
    sources: tuple[int, int]
    cut: int
    unadapted: int

    def line(self, split: str, e: EvalConfig) -> str:
        """One line for the log."""
        unit = {"batch_bn": "batches"}.get(e.tta, f"{e.tta_group}s")
        what = "control images" if e.tta == "controls_bn" else "images"
        kind, left = ("statistics", "with running statistics")
        if e.tta in LOGIT_TTA:
            kind, left = ("predictions", "uncorrected")
        fewest, most = self.sources
        return (
            f"--tta {e.tta} on {split}: {self.images:,} images, {self.bio_batches:,} {unit}, "
            f"{self.passes:,} passes; {kind} of {fewest} to {most} {what}; {self.cut} cut; "
            f"{self.unadapted:,} images {left} (fewer than {e.tta_min})"
        )


def tally(plan: Sequence[BioBatch], e: EvalConfig) -> Tally:
    """Count a plan."""
    adapted = [group for group in plan if group.adapted]
    used = 1 if e.tta == "controls_bn" else None
    together = e.tta == "eb_bn" or e.tta in LOGIT_TTA
    sources = [n for g in adapted for n in ([len(g)] if together else map(len, g.passes[:used]))]
    return Tally(
        images=sum(map(len, plan)),
        bio_batches=len(plan),
        passes=sum(len(group.passes) for group in plan),
        sources=(min(sources), max(sources)) if sources else (0, 0),
        cut=sum(len(group.passes) > 1 for group in plan) if e.tta in CUT_TTA and not together else 0,
        unadapted=sum(len(group) for group in plan if not group.adapted),
    )
