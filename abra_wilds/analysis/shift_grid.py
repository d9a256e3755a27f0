"""The grid of label shifts that adaptations are judged on: its cells, and what is drawn for each. Torch-free.

After CS-ARM-BN v2 (arXiv 2604.20824): of each bio-batch n images whose classes follow a Dirichlet(alpha).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abra_wilds.config.evaluation import GROUPED_TTA, EvalConfig, adaptation_text
from abra_wilds.errors import InputError

ALPHAS: tuple[float, ...] = (inf, 10.0, 1.0, 0.1, 0.01)
SIZES: tuple[int | None, ...] = (1, 8, 32, 128, None)
DRAWS = 10
# Below --tta_min an adaptation is not used; here it is seen bare, but for a single image.
LEAST = 2
Shift = tuple[float, int | None]  # alpha, and images that are asked for; None for the whole bio-batch


@dataclass(frozen=True)
class Grid:
    """Which label shifts are drawn, and which adaptations predict them.

    Attributes:
        alphas: of the Dirichlet distributions, infinity for images drawn whatever their class.
        sizes: images of a draw, None for as many as the bio-batch has.
        draws: of each bio-batch in each cell.
        adapters: as --also_tta takes them; controls enter where it says controls=. None for all.
    """

    alphas: Sequence[float] = ALPHAS
    sizes: Sequence[int | None] = SIZES
    draws: int = DRAWS
    adapters: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name, values, what in (
            ("alphas", self.alphas, "positive numbers or inf"),
            ("sizes", [1 if n is None else n for n in self.sizes], "whole numbers from 1 up or all"),
            ("draws", [self.draws], "a whole number from 1 up"),
        ):
            wrong = [value for value in values if not value > 0]
            if wrong or not values:
                raise InputError(f"--{name} must be {what}; got {wrong[0] if wrong else 'none'}")
        if self.adapters is not None:
            adaptations(self.adapters, "plate")

    def shifts(self) -> list[Shift]:
        """The cells, in order."""
        return [(alpha, n) for alpha in dict.fromkeys(self.alphas) for n in dict.fromkeys(self.sizes)]


def adaptations(names: Sequence[str] | None, group: str, controls: bool = False) -> dict[str, EvalConfig]:
    """The adaptations of a grid by their names, none first.

    Args:
        names: None for every adaptation to a bio-batch, with and without controls.
        group: what a bio-batch is, "plate" or "experiment".
        controls: whether all of them includes those with controls.

    Raises:
        InputError: for one that is unknown, or that does not adapt to a bio-batch.
    """
    base = EvalConfig(tta_group=group, tta_min=LEAST, tta_controls="none")
    texts = all_adapters(base, controls) if names is None else [t for t in names if t != "none"]
    found = [base, *replace(base, also_tta=tuple(texts)).alternatives()]
    for e in found[1:]:
        if e.tta not in GROUPED_TTA or e.tta_group != group:
            raise InputError(
                f"{e.tta} by {e.tta_group} is asked for, and draws are of a {group}; give none or one of "
                f"{', '.join(GROUPED_TTA)}"
            )
        if e.tta == "controls_bn" and e.tta_controls == "none":
            raise InputError("controls_bn needs controls; give controls_bn,controls=all")
    return {adaptation_text(e, base): e for e in found}


def all_adapters(base: EvalConfig, controls: bool) -> list[str]:
    """Every adaptation to a bio-batch; where controls are known, also with them, if it makes use of them."""
    found = [tta for tta in GROUPED_TTA if tta != "controls_bn"]
    for tta in GROUPED_TTA if controls else ():
        if "tta_controls" not in replace(base, tta=tta).idle():
            found.append(f"{tta},controls=all")
    return found


def draw(labels: NDArray[Any], alpha: float, n: int | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of a bio-batch under a label shift, in order, none twice.

    The class counts are multinomial with probabilities from a Dirichlet(alpha) over the classes that the
    bio-batch holds. Of a class with fewer images than asked for all are taken, so there may be fewer than n.

    Args:
        labels: (N,) class ids of the bio-batch.
        alpha: infinity for rows whatever their class.
        n: images that are asked for; None for N.
        rng: of the draw.
    """
    size, order = n or len(labels), rng.permutation(len(labels))
    if alpha == inf:
        return np.sort(order[:size])
    classes = np.unique(labels)
    counts = rng.multinomial(size, rng.dirichlet(np.full(len(classes), alpha)))
    parts = [order[labels[order] == c][:count] for c, count in zip(classes, counts, strict=True)]
    return np.sort(np.concatenate(parts))


def drawn_by(seed: int, bio_batch: int, shift: Shift, number: int) -> np.random.Generator:
    """The generator of a draw: by the run's seed, the number of the bio-batch, the cell and its number."""
    alpha, n = shift
    return np.random.default_rng([seed, bio_batch, int(np.float64(alpha).view(np.uint64)), n or 0, number])


@dataclass(frozen=True)
class Cell:
    """What the adaptations of one model make of one label shift.

    Attributes:
        split: such as "test".
        alpha: None for images drawn whatever their class.
        size: images that were asked for; None for the whole bio-batch.
        draws: of each bio-batch.
        bio_batches: names.
        images: of each bio-batch, drawn in all draws together.
        right: of them, by adaptation.
        balanced_acc: by adaptation, the mean over draws of the mean recall of the classes that a draw of
            all bio-batches holds.
        advice: by adaptation that gives advice: draws in which it says "adapt", "do not adapt" and "cannot
            tell", and right predictions if "adapt" is followed and all else is left unadapted.
        data_sha256: of labels and metadata, which tells folds apart.
    """

    split: str
    alpha: float | None
    size: int | None
    draws: int
    bio_batches: Sequence[str]
    images: Sequence[int]
    right: dict[str, Sequence[int]] = field(repr=False)
    balanced_acc: dict[str, float] = field(repr=False)
    advice: dict[str, dict[str, int]] = field(repr=False)
    data_sha256: str
