"""What position, intensity, density, plate and background alone say of classes in new bio-batches.

Simple models learn from the training wells and name the classes of wells of bio-batches that they have not
seen, as the model does. Whether they are above chance is asked by permutations: of classes inside a plate,
which keep each plate as it is; and of plate numbers inside an experiment for what the plate alone says. The
five p are adjusted by Holm, so that all verdicts of a screen without shortcuts are right in 95 % of screens.

Letters: W wells, V of them in training, C channels, O classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.naive_bayes import CategoricalNB, GaussianNB

from abra_wilds.analysis.metrics.mixing import shuffled
from abra_wilds.analysis.postprocess import Floats, Mask, Names
from abra_wilds.results.significance import holm

Ints = NDArray[np.int64]
LEVEL = 0.05
PERMUTATIONS = 999
PLAIN, BACKGROUND = "as they are", "background only"
# What each shortcut reads, as sentences say it.
SHORTCUTS = {
    "position": "The well's place on the plate names",
    "intensity": "Mean and spread of each channel, as they are and against the plate, name",
    "density": "The share of foreground, as it is and against the plate, names",
    "plate": "The number of the plate names",
    "background": "The model, shown the background without cells, names",
}
# A treatment may change these by itself.
BIOLOGY = ("intensity", "density")


@dataclass(frozen=True)
class AuditWells:
    """Wells and what is known of them without looking at cells.

    Attributes:
        label: (W,) the class.
        experiment: (W,) its name.
        plate: (W,) the plate's name inside the experiment.
        position: (W,) the well's name.
        statistics: (W, 3C) as of `channel_statistics`, means over sites.
    """

    label: Ints
    experiment: Names
    plate: Names
    position: Names
    statistics: Floats

    def of(self, rows: Mask) -> AuditWells:
        """Some of the wells."""
        return AuditWells(*(getattr(self, f.name)[rows] for f in fields(self)))

    @property
    def group(self) -> Ints:
        """The plate of each well as a number, (W,)."""
        frame = pd.DataFrame({"experiment": self.experiment, "plate": self.plate})
        numbers: Ints = frame.groupby(["experiment", "plate"], sort=False).ngroup().to_numpy()
        return numbers


@dataclass(frozen=True)
class Verdict:
    """What is found of one shortcut.

    Attributes:
        shortcut: a key of SHORTCUTS.
        accuracy: of the shortcut alone.
        chance: the mean accuracy over permutations.
        p: the share of permutations that give the right classes at least as much probability.
        adjusted: p after Holm's correction for all shortcuts.
        found: whether adjusted < 0.05 and accuracy is above chance, without which no model could live on it.
        ahead: accuracy of the model minus that of the shortcut, of the same wells.
        ahead_p: two-sided, exact, of McNemar's paired test of the two.
    """

    shortcut: str
    accuracy: float
    chance: float
    p: float
    adjusted: float
    found: bool
    ahead: float
    ahead_p: float

    def __str__(self) -> str:
        """One or two sentences."""
        said, what = "found" if self.found else "not found", SHORTCUTS[self.shortcut]
        message = (
            f"{self.shortcut}: {said}. {what} the class of {100 * self.accuracy:.1f} % of "
            f"new wells (chance {100 * self.chance:.1f} %, permutation {p_text(self.p)}, Holm "
            f"{self.adjusted:.3f})"
        )
        if self.shortcut != "background":
            side = "ahead" if self.ahead >= 0 else "below"
            points = f"{100 * abs(self.ahead):.1f} points {side}"
            message += f"; the model is {points} (McNemar {p_text(self.ahead_p)})"
        if self.found and self.shortcut in BIOLOGY:
            return message + ". Treatments may change it by themselves: look whether the model is ahead."
        return message + "."


def p_text(p: float) -> str:
    """A p-value as sentences say it.

    >>> p_text(0.04), p_text(1e-9)
    ('p = 0.040', 'p < 0.001')
    """
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"


def audited(
    train: AuditWells, test: AuditWells, shown: Mapping[str, Floats], channel: int = 0
) -> list[Verdict]:
    """A verdict on each shortcut.

    Args:
        train: wells that the simple models learn from.
        test: wells of other bio-batches.
        shown: how images are shown -> the model's probabilities (W, O) of `test`, PLAIN and BACKGROUND among
            them.
        channel: whose foreground is the density.
    """
    rng = np.random.default_rng(0)
    model = shown[PLAIN].argmax(1) == test.label
    believed = {**guesses(train, test, shown[PLAIN].shape[1], channel), "background": shown[BACKGROUND]}
    tested = {name: permuted(believed[name], test, name == "plate", rng) for name in SHORTCUTS}
    adjusted = holm([p for p, _ in tested.values()])
    verdicts = []
    for (name, (p, chance)), q in zip(tested.items(), adjusted, strict=True):
        right = believed[name].argmax(1) == test.label
        accuracy = float(right.mean())
        found = q < LEVEL and accuracy > chance
        verdicts.append(Verdict(name, accuracy, chance, p, q, found, *paired(model, right)))
    return verdicts


def guesses(train: AuditWells, test: AuditWells, O: int, channel: int) -> dict[str, Floats]:
    """Probabilities (W, O) by position, intensity, density and plate number alone, by naive Bayes."""
    C = train.statistics.shape[1] // 3
    both = [np.stack([w.statistics, against_plate(w)], axis=2) for w in (train, test)]  # (W, 3C, 2)

    def gaussian(columns: Ints) -> Floats:
        own, new = (f[:, columns].reshape(len(f), -1) for f in both)
        if not own.var(0).any():  # a foreground that no image has
            return np.full((len(new), O), 1 / O)
        return spread_out(GaussianNB().fit(own, train.label), new, O)

    return {
        "position": by_names(train.label, places(train.position), places(test.position), O),
        "intensity": gaussian(np.arange(2 * C)),
        "density": gaussian(np.array([2 * C + channel])),
        "plate": by_names(train.label, [train.plate], [test.plate], O),
    }


def against_plate(wells: AuditWells) -> Floats:
    """Statistics (W, 3C) minus the mean, over the standard deviation, of the well's plate."""
    frame = pd.DataFrame(wells.statistics.astype(np.float64))
    plates = frame.groupby(wells.group)
    spread = plates.transform("std", ddof=0).to_numpy()
    centred = frame.to_numpy() - plates.transform("mean").to_numpy()
    found: Floats = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
    return found


def places(position: Names) -> list[Names]:
    """A well's name, its letters and its number, (W,) each: what a class may keep from plate to plate."""
    names = pd.Series(position).astype(str)
    letters, digits = names.str.replace(r"\d", "", regex=True), names.str.replace(r"\D", "", regex=True)
    return [part.to_numpy(dtype=object) for part in (names, letters, digits)]


def by_names(label: Ints, own: Sequence[Names], new: Sequence[Names], O: int) -> Floats:
    """Probabilities (W, O) by categories alone; one that training does not have says nothing.

    Args:
        label: (V,) of the training wells.
        own: (V,) categories of those, one array a feature.
        new: (W,) the same of new wells.
        O: classes.
    """
    known = [np.unique(names.astype(str)) for names in own]

    def codes(columns: Sequence[Names]) -> Ints:
        found = []
        for names, kinds in zip(columns, known, strict=True):
            at = np.minimum(np.searchsorted(kinds, names.astype(str)), len(kinds) - 1)
            found.append(np.where(kinds[at] == names.astype(str), at, len(kinds)))
        return np.stack(found, axis=1)

    model = CategoricalNB(min_categories=[len(kinds) + 1 for kinds in known])
    return spread_out(model.fit(codes(own), label), codes(new), O)


def spread_out(model: Any, new: NDArray[Any], O: int) -> Floats:
    """A fitted model's probabilities of new wells with a column for each class, (W, O)."""
    found = np.zeros((len(new), O))
    found[:, model.classes_] = model.predict_proba(new)
    return found


def permuted(
    believed: Floats, test: AuditWells, of_plates: bool, rng: np.random.Generator
) -> tuple[float, float]:
    """P of the probability that right classes get, and the mean accuracy, over permutations.

    Args:
        believed: (W, O) probabilities.
        test: the wells.
        of_plates: permute plates inside experiments, where `believed` depends on the plate alone; else
            permute classes inside plates.
        rng: of the permutations.
    """
    group, label, named = test.group, test.label, believed.argmax(1)
    first = np.unique(group, return_index=True)[1]  # a well of each plate
    rows, scores, accuracies = np.arange(len(label)), [], []
    for _ in range(PERMUTATIONS):
        at, y = rows, label
        if of_plates:
            at = first[shuffled(np.arange(len(first)), test.experiment[first], rng)[group]]
        else:
            y = shuffled(label, group, rng)
        scores.append(believed[at, y].mean())
        accuracies.append((named[at] == y).mean())
    as_good = int((np.array(scores) >= believed[rows, label].mean() - 1e-12).sum())
    return (1 + as_good) / (1 + PERMUTATIONS), float(np.mean(accuracies))


def paired(a: Mask, b: Mask) -> tuple[float, float]:
    """The difference of two accuracies of the same wells, and the p of McNemar's exact test."""
    wins, losses = int((a & ~b).sum()), int((b & ~a).sum())
    p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    return float(a.mean() - b.mean()), float(p)
