"""What every adaptation makes of label shifts inside the bio-batches of a split.

Letters: N images of a bio-batch, n of a draw, O classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from abra_wilds.analysis.saved import Saved
from abra_wilds.analysis.shift_grid import Cell, Grid, Shift, adaptations, draw, drawn_by
from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.data.datasets.catalogue import data_digest
from abra_wilds.data.datasets.controls import control_rows, has_controls
from abra_wilds.data.samplers.batches import RowIds, even_chunks
from abra_wilds.engine.evaluation.certificates import Certifying
from abra_wilds.engine.evaluation.components import saved_components
from abra_wilds.tta.adapters import Adapter, check_adaptable, make_adapter, running_statistics
from abra_wilds.tta.advice import WORDS, Decision, decide
from abra_wilds.tta.plan import bio_batch_plan, well_ids
from abra_wilds.types import Batch


@dataclass(frozen=True)
class Ready:
    """An adaptation that is ready to predict a split.

    Attributes:
        e: its settings.
        adapter: the same as a function.
        is_control: (rows of the split,) the images whose classes it knows.
    """

    e: EvalConfig
    adapter: Adapter
    is_control: NDArray[np.bool_]


def label_shift(saved: Saved, split: str = "test", grid: Grid | None = None) -> list[Cell]:
    """Counts of right predictions under the label shifts of a grid, one cell after the other.

    All adaptations see the same draws. With controls, all controls of the bio-batch go along, whether drawn
    or not; only what was drawn is scored. Images are read once.

    Args:
        saved: the model.
        split: of its data.
        grid: None for the whole one.

    Raises:
        InputError: for an unknown split, or an adaptation that the model or the data do not serve.
    """
    grid = grid or Grid()
    members, adapters = saved.members(split), ready(saved, split, grid)
    size = (len(members), grid.draws, saved.setup.info.n_classes)
    tallies = {shift: Tally(list(adapters), size) for shift in grid.shifts()}
    for number, (_, batch) in enumerate(saved.read(split, members, "label shifts of")):
        images, y = Images(saved, split, batch, number), batch.target.y.numpy()
        for shift, tally in tallies.items():
            for k in range(grid.draws):
                rows = draw(y, *shift, drawn_by(saved.config.train.seed, number, shift, k))
                found = {name: images.predicted(name, a, rows) for name, a in adapters.items()}
                tally.add(number, k, y[rows], {name: p.classes for name, p in found.items()})
                tally.advise(y[rows], found)
    digest = data_digest(saved.setup.dataset)
    return [tally.cell(split, shift, list(members), digest) for shift, tally in tallies.items()]


def knows_controls(saved: Saved, split: str) -> bool:
    """Whether the split holds images that are known to show controls."""
    dataset = saved.setup.dataset
    return has_controls(dataset) and bool(control_rows(dataset)[rows_of(saved, split)].any())


def rows_of(saved: Saved, split: str) -> RowIds:
    """The data set's rows of a split."""
    return np.asarray(saved.setup.subsets[split].indices)


def ready(saved: Saved, split: str, grid: Grid) -> dict[str, Ready]:
    """The adaptations of a grid for a model, by their names.

    Raises:
        InputError: if the model or the data do not serve one.
    """
    wanted = adaptations(grid.adapters, saved.group, controls=knows_controls(saved, split))
    components, found = None, {}
    for name, e in wanted.items():
        check_adaptable(saved.method, e)
        if e.needs_components and components is None:
            config = replace(saved.config, eval=e)
            kept = saved_components(saved.folder.model(saved.label), config, saved.setup, saved.method)
            components = kept.to(saved.setup.device)
        is_control = np.zeros(len(saved.setup.subsets[split]), dtype=bool)
        if e.tta_controls != "none":
            is_control = control_rows(saved.setup.dataset, e.tta_controls)[rows_of(saved, split)]
        adapter = Certifying(components) if components and e.needs_components else make_adapter(e)
        found[name] = Ready(e, adapter, is_control)
    return found


@dataclass(frozen=True)
class Predicted:
    """Some images of a bio-batch by an adaptation.

    Attributes:
        classes: (n,) ids.
        decision: whether to adapt to them, where the adaptation says so.
    """

    classes: NDArray[np.int64]
    decision: Decision | None = None


class Images:
    """The images of a bio-batch, and what was predicted of them.

    Args:
        saved: the model that predicts.
        split: of its data.
        batch: all N images, on the host.
        number: of the bio-batch.
    """

    def __init__(self, saved: Saved, split: str, batch: Batch, number: int):
        self.saved, self.batch, self.number = saved, batch, number
        self.wells = well_ids(saved.setup.subsets[split])
        self.seen: dict[tuple[str, bytes], Predicted] = {}

    @cached_property
    def plain(self) -> NDArray[np.int64]:
        """Class ids (N,) without adaptation."""
        chunks = even_chunks(np.arange(len(self.batch)), self.saved.config.data.batch_size)
        images = (self.saved.standardised(self.batch.x[rows]) for rows in chunks)
        logits = running_statistics(self.saved.method, images)
        return torch.cat([z.argmax(1).cpu() for z in logits]).numpy()

    def predicted(self, name: str, adapter: Ready, rows: RowIds) -> Predicted:
        """Some of them by an adaptation; the same images are predicted once."""
        if adapter.e.tta == "none":
            return Predicted(self.plain[rows])
        key = name, rows.tobytes()
        if key not in self.seen:
            self.seen[key] = self.adapted(adapter, rows)
        return self.seen[key]

    def adapted(self, adapter: Ready, rows: RowIds) -> Predicted:
        """The same, predicted now."""
        saved, is_control = self.saved, adapter.is_control[self.batch.rows.numpy()]
        together = np.union1d(rows, np.flatnonzero(is_control))
        size = saved.config.data.batch_size
        plan = bio_batch_plan(together, adapter.e, is_control[together], size, self.number)
        if not plan.adapted:
            too_few = Decision(None, "fewer images than --tta_min", 0.0)
            advises = isinstance(adapter.adapter, Certifying)
            return Predicted(self.plain[rows], too_few if advises else None)
        known = torch.where(torch.from_numpy(is_control), self.batch.target.y, -1)
        labels = [known[p].to(saved.setup.device) for p in plan.passes] if is_control.any() else ()
        images = (saved.standardised(self.batch.x[p]) for p in plan.passes)
        found = np.full(len(self.batch), -1)
        for p, logits in zip(plan.passes, adapter.adapter(saved.method, images, labels), strict=True):
            found[p] = logits.argmax(1).cpu().numpy()
        return Predicted(found[rows], self.decided(adapter.adapter, np.concatenate(plan.passes)))

    def decided(self, adapter: Adapter, rows: RowIds) -> Decision | None:
        """Whether to adapt to images (n,) that were adapted to just now."""
        if not isinstance(adapter, Certifying):
            return None
        outcome, known = adapter.outcomes.pop()
        wells = None if self.wells is None else self.wells[self.batch.rows.numpy()[rows]]
        plain, logits = torch.cat(outcome.plain), torch.cat(outcome.logits)
        return decide(plain, logits, outcome.mix, known, wells, adapter.components.calibration)


class Tally:
    """Counts of one cell.

    Args:
        names: of the adaptations.
        size: bio-batches, draws, classes.
    """

    def __init__(self, names: list[str], size: tuple[int, int, int]):
        bio_batches, self.draws, n_classes = size
        self.images = np.zeros(bio_batches, dtype=int)
        self.right = {name: np.zeros(bio_batches, dtype=int) for name in names}
        # Of each draw and class, all bio-batches together.
        self.drawn = np.zeros((self.draws, n_classes), dtype=int)
        self.hits = {name: np.zeros((self.draws, n_classes), dtype=int) for name in names}
        self.advice: dict[str, dict[str, int]] = {}

    def add(self, bio_batch: int, k: int, y: NDArray[Any], predicted: Mapping[str, NDArray[Any]]) -> None:
        """Count the k-th draw of a bio-batch: true class ids (n,), and those that adaptations predict."""
        self.images[bio_batch] += len(y)
        np.add.at(self.drawn[k], y, 1)
        for name, found in predicted.items():
            hit = y == found
            self.right[name][bio_batch] += hit.sum()
            np.add.at(self.hits[name][k], y[hit], 1)

    def advise(self, y: NDArray[Any], found: Mapping[str, Predicted]) -> None:
        """Count the advice on a draw with class ids (n,), and what is right if it is followed."""
        for name, predicted in found.items():
            if predicted.decision is not None:
                counts = self.advice.setdefault(name, dict.fromkeys((*WORDS.values(), "right"), 0))
                counts[predicted.decision.words] += 1
                followed = found[name if predicted.decision.adapt else "none"].classes
                counts["right"] += int((followed == y).sum())

    def balanced(self, name: str) -> float:
        """The mean over draws of the mean recall of the classes that were drawn."""
        recalls = (h[d > 0] / d[d > 0] for d, h in zip(self.drawn, self.hits[name], strict=True))
        return round(float(np.mean([recall.mean() for recall in recalls])), 6)

    def cell(self, split: str, shift: Shift, bio_batches: list[str], digest: str) -> Cell:
        """The counts as they are written."""
        alpha, n = shift
        return Cell(
            split=split,
            alpha=None if alpha == inf else alpha,
            size=n,
            draws=self.draws,
            bio_batches=bio_batches,
            images=self.images.tolist(),
            right={name: found.tolist() for name, found in self.right.items()},
            balanced_acc={name: self.balanced(name) for name in self.right},
            advice=self.advice,
            data_sha256=digest,
        )
