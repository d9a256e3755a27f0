"""Which adaptations cannot hurt, from what they make of label shifts; needs no torch.

Letters: M models, A adaptations, S cells of the grid, B bio-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abra_wilds.config.evaluation import ADVICE
from abra_wilds.errors import InputError

Rows = Sequence[Mapping[str, Any]]  # of `Cell`, with what is known of its model
NONE, WHOLE = "none", "plate_bn"
# Points that an adaptation may lose: in a cell, in a bio-batch. Within NEAR of the best it is as good.
CELL, BIO_BATCH, NEAR = 1.0, 3.0, 1.0
ROUNDING = 1e-9


@dataclass(frozen=True)
class Mean:
    """The accuracy of one adaptation in one cell over models.

    Attributes:
        adapter: as --also_tta takes it.
        alpha: None for images drawn whatever their class.
        size: images that were asked for; None for the whole bio-batch.
        acc: mean of the models' accuracies, as a fraction.
        balanced_acc: mean of the models' mean recalls.
        loss: points that it lies below none, the mean over models.
        images: of a draw of a bio-batch, the mean.
    """

    adapter: str
    alpha: float | None
    size: int | None
    acc: float
    balanced_acc: float
    loss: float
    images: float


@dataclass(frozen=True)
class Verdict:
    """Whether an adaptation can hurt, all in points of accuracy.

    Attributes:
        adapter: as --also_tta takes it.
        cell: the largest loss to none of a cell, the mean over models; a gain is negative.
        cell_of_model: the largest of a cell of one model.
        bio_batch: the largest of a bio-batch: the mean over its cells, and over the models of the same data.
        near_best: share of the cells in which it is the best, or within 1 point of it, of those that know no
            more than it does: an adaptation without controls is not compared with one that has them.
        kept: share of what plate_bn gains on whole bio-batches as they are; None where that is no gain.
    """

    adapter: str
    cell: float
    cell_of_model: float
    bio_batch: float
    near_best: float
    kept: float | None

    @property
    def harmless(self) -> bool:
        """Whether it loses at most 1 point in any cell and 3 in any bio-batch."""
        return self.cell <= CELL + ROUNDING and self.bio_batch <= BIO_BATCH + ROUNDING


@dataclass(frozen=True)
class Table:
    """Accuracies of several models on one grid, in points.

    Attributes:
        names: (A,) adaptations that all of them have.
        shifts: (S,) alpha and size.
        acc: (M, A, S).
        balanced: (M, A, S) mean recalls.
        images: (S,) of a draw of a bio-batch, the mean.
        losses: (B, A) of each bio-batch to none, the mean over its cells and the models of its data.
    """

    names: Sequence[str]
    shifts: Sequence[tuple[float | None, int | None]]
    acc: NDArray[np.float64]
    balanced: NDArray[np.float64]
    images: NDArray[np.float64]
    losses: NDArray[np.float64]


def by_model(rows: Rows) -> list[Rows]:
    """The rows of each model."""
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        key = tuple(row[k] for k in ("config_sha256", "checkpoint", "checkpoint_sha256", "data_sha256"))
        found.setdefault(key, []).append(row)
    return list(found.values())


def tabled(rows: Rows) -> Table:
    """The accuracies of the models that some rows are of.

    Raises:
        InputError: if their grids or splits differ.
    """
    models = by_model(rows)
    grids = [[(r["split"], r["group"], r["draws"], r["alpha"], r["size"]) for r in model] for model in models]
    if any(grid != grids[0] for grid in grids):
        raise InputError("models were judged on other grids of label shifts; compute all of them by the same")
    names = [n for n in models[0][0]["right"] if all(n in row["right"] for row in rows)]
    right = [np.array([[row["right"][n] for row in model] for n in names]) for model in models]  # (A, S, B)
    images = [np.array([row["images"] for row in model]) for model in models]  # (S, B)
    balanced = [[[100 * row["balanced_acc"][n] for row in model] for n in names] for model in models]
    draws = models[0][0]["draws"]
    return Table(
        names=names,
        shifts=[(row["alpha"], row["size"]) for row in models[0]],
        acc=np.array([100 * r.sum(2) / n.sum(1) for r, n in zip(right, images, strict=True)]),
        balanced=np.array(balanced),
        images=np.mean([n.mean(1) / draws for n in images], axis=0),
        losses=bio_batch_losses(models, [100 * r / n for r, n in zip(right, images, strict=True)], names),
    )


def bio_batch_losses(
    models: Sequence[Rows], accs: Sequence[NDArray[np.float64]], names: Sequence[str]
) -> NDArray[np.float64]:
    """Losses to none (B, A) of each bio-batch of each data set, from accuracies (A, S, B) of each model."""
    found: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for model, acc in zip(models, accs, strict=True):
        loss = (acc[names.index(NONE)] - acc).mean(1)  # (A, B)
        for name, of in zip(model[0]["bio_batches"], loss.T, strict=True):
            found.setdefault((model[0]["data_sha256"], name), []).append(of)
    return np.array([np.mean(each, axis=0) for each in found.values()])


def means(rows: Rows) -> list[Mean]:
    """Accuracies over models, one entry an adaptation and cell.

    Raises:
        InputError: if grids differ.
    """
    t = tabled(rows)
    acc, balanced = t.acc.mean(0) / 100, t.balanced.mean(0) / 100
    loss = 100 * (acc[t.names.index(NONE)] - acc)
    return [
        Mean(name, *shift, *map(float, (acc[a, s], balanced[a, s], loss[a, s], t.images[s])))
        for a, name in enumerate(t.names)
        for s, shift in enumerate(t.shifts)
    ]


def verdicts(rows: Rows) -> list[Verdict]:
    """Whether each adaptation can hurt, over all models, cells and bio-batches.

    Raises:
        InputError: if grids differ.
    """
    t = tabled(rows)
    none = t.names.index(NONE)
    losses = t.acc[:, [none]] - t.acc  # (M, A, S)
    mean = t.acc.mean(0)  # (A, S)
    best = {  # by whether controls are known
        known: mean[[known or "controls=" not in name for name in t.names]].max(0) for known in (False, True)
    }
    return [
        Verdict(
            adapter=name,
            cell=float(losses[:, a].mean(0).max()),
            cell_of_model=float(losses[:, a].max()),
            bio_batch=float(t.losses[:, a].max()),
            near_best=float((mean[a] >= best["controls=" in name] - NEAR - ROUNDING).mean()),
            kept=kept(t, a),
        )
        for a, name in enumerate(t.names)
        if name != NONE
    ]


def kept(table: Table, a: int) -> float | None:
    """The share that an adaptation keeps of what plate_bn gains on whole bio-batches as they are."""
    as_it_is = (None, None)
    if WHOLE not in table.names or as_it_is not in table.shifts:
        return None
    acc = table.acc.mean(0)[:, table.shifts.index(as_it_is)]
    gain = acc[table.names.index(WHOLE)] - acc[table.names.index(NONE)]
    return float((acc[a] - acc[table.names.index(NONE)]) / gain) if gain > ROUNDING else None


@dataclass(frozen=True)
class Advised:
    """How often the advice whether to adapt was right, over the cells of each model with 2 images or more.

    Attributes:
        adapter: that gives it.
        counts: advice -> cells in which adaptation gains more than 1 point, changes less, and loses more. The
            advice of a cell is that of more than half of its draws, or else "cannot tell".
        followed: of each cell, the accuracy of predictions that follow the advice draw by draw, less the
            better one of always and never adapting, in points.
    """

    adapter: str
    counts: Mapping[str, Sequence[int]]
    followed: Sequence[float]

    @property
    def cells(self) -> int:
        """All of them."""
        return len(self.followed)

    @property
    def right(self) -> int:
        """Cells in which it names the better, or one within 1 point of it."""
        adapt, do_not, open_ = (self.counts[words] for words in ADVICE)
        return sum(adapt[:2]) + sum(do_not[1:]) + open_[1]

    @property
    def right_if_always(self) -> int:
        """The same of the advice to adapt always."""
        return sum(sum(of[:2]) for of in self.counts.values())


def advised(rows: Rows) -> list[Advised]:
    """The record of the advice of each adaptation that gives some."""
    found: dict[str, tuple[dict[str, list[int]], list[float]]] = {}
    for row in rows:
        none, n = sum(row["right"][NONE]), sum(row["images"])
        for name, said in row.get("advice", {}).items():
            if row["size"] == 1:
                continue
            counts, followed = found.setdefault(name, ({words: [0, 0, 0] for words in ADVICE}, []))
            right, draws = sum(row["right"][name]), sum(said[words] for words in ADVICE)
            words = next((w for w in ADVICE if 2 * said[w] > draws), ADVICE[-1])
            gain = 100 * (right - none) / n
            counts[words][0 if gain > NEAR + ROUNDING else 2 if gain < -NEAR - ROUNDING else 1] += 1
            followed.append(100 * (said["right"] - max(right, none)) / n)
    return [Advised(name, *of) for name, of in found.items()]


def settled(rows: Rows) -> str:
    """Which adaptations cannot hurt, as a sentence.

    Raises:
        InputError: if grids differ.
    """
    found = [v.adapter for v in verdicts(rows) if v.harmless]
    return f"Cannot hurt: {'; '.join(found) or 'none of the adaptations'}."
