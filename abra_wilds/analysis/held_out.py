"""Whether an alignment on controls makes experiments more alike, asked of controls that it has not seen.

With few controls an alignment shifts each experiment by what chance gave its controls, and a classifier
then finds differences that are not there. So it is fitted to half of the control wells, and
experiments are looked for in the other half, as they were and aligned.

Letters: n sites, m of them of controls, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from abra_wilds.analysis.postprocess import POSTPROCESS, Floats, Mask, Names
from abra_wilds.errors import InputError

HALVINGS = 5
# An alignment is refused where it raises the share by more than this, and by more than two standard errors.
MOST_GAIN = 0.05


@dataclass(frozen=True)
class HeldOut:
    """How often control sites, which the alignment was not fitted to, show their experiment to a classifier.

    Attributes:
        before: the share of sites, as they are.
        after: the same, aligned.
        chance: the share of the largest experiment.
        wells: how many were asked.
    """

    before: float
    after: float
    chance: float
    wells: int

    def __str__(self) -> str:
        """The shares in percent, as the command prints and refuses them."""
        before, after, chance = (f"{100 * x:.0f} %" for x in (self.before, self.after, self.chance))
        return (
            "among control wells that it was not fitted to, a classifier names the experiment of "
            f"{before} of images before and {after} after it (chance: {chance})"
        )


def held_out(name: str, features: Floats, batch: Names, is_control: Mask, well: NDArray[np.int64]) -> HeldOut:
    """Align on half of the control wells and look at the other half, several times.

    In the other half a ridge classifier learns experiments from half of the wells and is asked for the rest:
    a linear one, since alignment moves and stretches.

    Args:
        name: a key of POSTPROCESS.
        features: (n, D).
        batch: (n,) the experiment of each site.
        is_control: (n,).
        well: (n,) numbers of wells, each of one experiment.
    """
    if len(np.unique(batch)) == 1:
        return HeldOut(before=1.0, after=1.0, chance=1.0, wells=0)
    f, names = features[is_control].astype(np.float64), batch[is_control]
    wells, well = np.unique(well[is_control], return_inverse=True)
    experiment = names[np.unique(well, return_index=True)[1]]  # (wells,)
    right = np.zeros((2, len(f)))
    rng = np.random.default_rng(0)
    for _ in range(HALVINGS):
        part = quarters(experiment, rng)[well]
        for fit in (part < 2, part >= 2):
            versions = (f, POSTPROCESS[name](f, names, fit))
            for asked in (~fit & (part % 2 == 0), ~fit & (part % 2 == 1)):
                learned = ~fit & ~asked
                for of, x in zip(right, versions, strict=True):
                    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=float(learned.sum())))
                    of[asked] += model.fit(x[learned], names[learned]).predict(x[asked]) == names[asked]
    before, after = right.mean(1) / HALVINGS
    chance = float(np.unique(names, return_counts=True)[1].max() / len(names))
    return HeldOut(float(before), float(after), chance, len(wells))


def quarters(experiment: Names, rng: np.random.Generator) -> NDArray[np.int64]:
    """A number from 0 to 3 for each well, (wells,), at random and evenly inside each experiment."""
    part = np.empty(len(experiment), dtype=np.int64)
    for name in np.unique(experiment):
        own = np.flatnonzero(experiment == name)
        part[rng.permutation(own)] = np.arange(len(own)) % 4
    return part


def check_held_out(
    name: str, features: Floats, batch: Names, is_control: Mask, well: NDArray[np.int64]
) -> HeldOut:
    """The result of `held_out`, whose arguments it takes.

    Raises:
        InputError: if the alignment makes experiments easier to tell apart.
    """
    found = held_out(name, features, batch, is_control, well)
    error = (found.chance * (1 - found.chance) / max(found.wells, 1)) ** 0.5
    if found.after - found.before > max(MOST_GAIN, 2 * error):
        raise InputError(
            f"--postprocess {name} makes experiments easier to tell apart, not harder: {found}; embed more "
            "splits, so that there are more controls, or leave it out"
        )
    return found
