"""Which measures say that a site or a plate is not to be trusted: fixed limits, and distances from its like.

A distance is counted in robust standard deviations: from the median, over 1.4826 times the median absolute
deviation, of the sites of a plate, or of the plates of a screen.

Letters: n sites, P plates, C channels, M measures.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abra_wilds.analysis.qc.measures import F64, MEASURES

NUCLEAR = re.compile(r"dna|hoechst|dapi|nucle|h2b|draq", re.IGNORECASE)


def _limit(value: float, what: str) -> Any:
    return field(default=value, metadata={"what": what})


@dataclass(frozen=True)
class Limits:
    """Where each reason begins; `said` has them in words."""

    saturated: float = _limit(0.02, "share of a channel's pixels at the largest value")
    empty: float = _limit(0.002, "share of foreground in the nuclear channel, below which a site is empty")
    blank: float = _limit(
        0.02, "share of foreground over its plate's median, below which a channel is blank, or a site empty"
    )
    blurred: float = _limit(4.0, "distance below its plate in focus or sharpness, median over channels")
    channel_blurred: float = _limit(8.0, "the same of one channel, in focus and in sharpness")
    brightness: float = _limit(8.0, "distance from its plate in the log of a channel's mean, either way")
    stain: float = _limit(3.5, "distance of a plate's contrast from others of its batch or screen")
    stain_spread: float = _limit(0.25, "least robust standard deviation between plates, in doublings")
    plate: float = _limit(0.2, "share of a plate's sites that are flagged, above which all of it is")
    least_sites: float = _limit(8, "sites a plate has where distances within it are taken")
    least_plates: float = _limit(5, "plates a screen has where distances between them are taken")

    def said(self) -> list[tuple[str, str, str]]:
        """Name, value and meaning of each."""
        return [(f.name, f"{getattr(self, f.name):g}", f.metadata["what"]) for f in fields(self)]


LIMITS = Limits()


def nuclear_channel(names: Sequence[str]) -> int:
    """The place of the channel that shows nuclei by its name, else of the first.

    >>> nuclear_channel(["ER", "DNA"]), nuclear_channel(["channel 1", "channel 2"])
    (1, 0)
    """
    return next((k for k, name in enumerate(names) if NUCLEAR.search(name)), 0)


def robust_z(values: F64, group: NDArray[np.int64], least: float, floor: float) -> F64:
    """The distance of each row from the median of its group, (n, C); 0 in groups that are too small.

    Args:
        values: (n, C); nan stays nan and counts for nobody.
        group: (n,) numbers from 0.
        least: rows a group must have.
        floor: least standard deviation, for groups whose rows are nearly the same.
    """
    z = np.zeros_like(values)
    for rows in np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1]):
        if len(rows) >= least:
            z[rows] = _scaled(values[rows] - _median(values[rows]), floor)
    return z


def _scaled(distances: F64, floor: float) -> F64:
    """Distances from medians, (n, C), over their robust standard deviation."""
    mad = 1.4826 * _median(np.abs(distances))
    return np.asarray(distances / np.maximum(mad, floor))


def _median(values: F64) -> F64:
    """The median of each column, nan for one of nan alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN")
        return np.asarray(np.nanmedian(values, 0))


def judge_sites(
    measures: F64, plate: NDArray[np.int64], channels: Sequence[str], nuclear: int, limits: Limits = LIMITS
) -> list[list[str]]:
    """The reasons not to trust each site, (n); none for most.

    Args:
        measures: (n, C, M) of `measure`.
        plate: (n,) the number of each site's plate, from 0.
        channels: (C) names.
        nuclear: which of them shows nuclei.
        limits: where reasons begin.
    """
    of = dict(zip(MEASURES, np.moveaxis(measures, 2, 0), strict=True))  # (n, C) each
    share = of["foreground"]
    # What is usual on a plate is so on its sites with cells, however few they are.
    usual = _medians(np.where(share[:, [nuclear]] < limits.empty, np.nan, share), plate)[plate]
    least = np.fmax(limits.empty, limits.blank * usual)  # (n, C)
    dead, few = of["spread"] == 0, share < least
    # Nuclei that fail to show where most other stains do are a fault of their channel.
    others = few[:, np.arange(len(channels)) != nuclear]
    shown = others.size > 0 and (others.mean(1) <= 0.5)
    empty = few[:, nuclear] & ~dead[:, nuclear] & ~np.asarray(shown)
    blank = dead | ((share < limits.blank * usual) & ~empty[:, None])
    blank[:, nuclear] |= few[:, nuclear] & ~empty
    seen = np.where(blank | empty[:, None], np.nan, 0.0)  # what shows nothing is neither sharp nor dim
    near = [
        robust_z(of[name] + seen, plate, limits.least_sites, floor)
        for name, floor in (("focus", 0.05), ("sharpness", 0.02))
    ]
    light = robust_z(np.log2(np.maximum(of["mean"], 1e-6)) + seen, plate, limits.least_sites, 0.05)
    blurred = np.minimum(*(np.median(np.where(np.isnan(z), 0, z), 1) for z in near)) < -limits.blurred
    soft = (np.fmax(*near) < -limits.channel_blurred) & ~blurred[:, None]
    parts = [
        (empty[:, None], ["empty"]),
        (blank, [f"blank {name}" for name in channels]),
        (of["saturated"] > limits.saturated, [f"saturated {name}" for name in channels]),
        (blurred[:, None], ["blurred"]),
        (soft, [f"blurred {name}" for name in channels]),
        (light > limits.brightness, [f"bright {name}" for name in channels]),
        (light < -limits.brightness, [f"dim {name}" for name in channels]),
    ]
    found: list[list[str]] = [[] for _ in plate]
    for where, reasons in parts:
        for row, k in zip(*np.nonzero(where), strict=True):
            found[row].append(reasons[k])
    return found


def _medians(values: F64, plate: NDArray[np.int64]) -> F64:
    """The median of each plate's sites, (P, C), from (n, C); nan counts for nobody."""
    ends = np.cumsum(np.bincount(plate))[:-1]
    return np.array([_median(values[rows]) for rows in np.split(np.argsort(plate, kind="stable"), ends)])


def judge_plates(
    measures: F64,
    plate: NDArray[np.int64],
    batch: NDArray[np.int64],
    channels: Sequence[str],
    cells: NDArray[np.bool_] | None = None,
    limits: Limits = LIMITS,
) -> tuple[list[list[str]], F64]:
    """The reasons not to trust each plate's stains, (P), and its contrasts over those of others, (P, C).

    A plate's contrast is the median over its sites with cells. It is compared with the other plates of its
    batch, which share much of what makes batches differ, and with all others of the screen; the distance is
    counted by how far plates usually are from their others.

    Args:
        measures: (n, C, M) of `measure`.
        plate: (n,) the number of each site's plate, from 0.
        batch: (P,) the number of each plate's batch.
        channels: (C) names.
        cells: (n,) which sites are not empty; None for all.
        limits: where reasons begin.
    """
    contrast = measures[:, :, MEASURES.index("contrast")]
    if cells is not None:
        contrast = np.where(cells[:, None], contrast, np.nan)
    stain = np.log2(np.maximum(_medians(contrast, plate), 1e-6))  # (P, C)
    found: list[list[str]] = [[] for _ in batch]
    n = len(batch)
    if n < limits.least_plates:
        return found, np.full(stain.shape, np.nan)
    mates = batch[:, None] == batch[None]  # (P, P)
    apart = np.stack([_from_others(stain, who) for who in (mates, np.ones_like(mates))])  # (2, P, C)
    far = np.stack([np.abs(_scaled(d, limits.stain_spread)) > limits.stain for d in apart])
    for row, k in zip(*np.nonzero(far.any(0)), strict=True):
        against = int(far[:, row, k].argmax())
        others = ("the batch's", "the screen's")[against]
        found[row].append(f"stain {channels[k]} x{2 ** apart[against, row, k]:.2f} of {others}")
    return found, 2 ** apart[1]


def _from_others(values: F64, who: NDArray[np.bool_]) -> F64:
    """Each plate's values less the median of its others, (P, C); 0 where it has none.

    Args:
        values: (P, C).
        who: (P, P) bool, which plates each belongs to; itself is not counted.
    """
    others = who & ~np.eye(len(who), dtype=bool)
    medians = [
        np.median(values[row], 0) if row.any() else own for row, own in zip(others, values, strict=True)
    ]
    return np.asarray(values - np.array(medians))
