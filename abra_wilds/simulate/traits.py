"""What a well's cells look like and what its experiment does to the picture: all draws but the cells.

A well is described by `Traits` (what the cells are) and a `BatchEffect` (what culture, staining and
microscope add). Traits are multiplied together in log units: cell line x siRNA phenotype x culture drift. All
lengths are in pixels of a 512 px image; the renderer rescales them (`colony.magnification`).

Letters: T traits, 6 stains in the order Hoechst, ConA, phalloidin, SYTO 14, MitoTracker, WGA.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from abra_wilds.data.datasets.layouts import N_STAINS
from abra_wilds.simulate.arrays import F64

CELL_LINES = ("HEPG2", "HUVEC", "RPE", "U2OS")


class Traits(NamedTuple):
    """The parameters of one well's cells; units in the table below."""

    cells: float
    clustering: float
    nucleus: float
    nucleus_aspect: float
    nucleus_ragged: float
    chromatin: float
    nucleoli: float
    body: float
    elongation: float
    ragged: float
    rounded: float
    er_decay: float
    er_grain: float
    actin_fibres: float
    actin_pitch: float
    actin_cortex: float
    rna_decay: float
    rna_nuclear: float
    mito_decay: float
    mito_network: float
    golgi: float
    membrane: float
    hoechst: float
    er: float
    actin: float
    rna: float
    mito: float
    wga: float

    @property
    def levels(self) -> tuple[float, ...]:
        """Brightness of the six stains, in grey levels of a typical cell."""
        return self[-N_STAINS:]


# One row a trait: the four cell lines, then the standard deviations (log units) of the siRNA phenotype and of
# the culture drift between experiments. Chosen by eye against the real site of an untreated HEPG2 well, the
# other lines from their descriptions: HUVEC large, flat and elongated; RPE cobbled; U2OS large, spread, few.
_TABLE: dict[str, tuple[float, float, float, float, float, float]] = {
    "cells": (165, 85, 115, 80, 0.38, 0.30),  # per 512 x 512 field
    "clustering": (0.75, 0.15, 0.25, 0.30, 0.50, 0.30),  # share of cells that sit in colonies
    "nucleus": (12.5, 13.5, 13.0, 15.5, 0.21, 0.12),  # radius
    "nucleus_aspect": (1.25, 1.40, 1.22, 1.30, 0.20, 0.06),  # long over short axis
    "nucleus_ragged": (0.05, 0.03, 0.03, 0.04, 0.80, 0.30),  # wobble of the outline, share of the radius
    "chromatin": (0.16, 0.10, 0.12, 0.14, 0.80, 0.40),  # contrast of its texture
    "nucleoli": (0.80, 0.90, 0.70, 1.10, 0.70, 0.30),  # brightness in SYTO 14, depth in Hoechst
    "body": (1.00, 1.00, 1.00, 1.00, 0.18, 0.10),  # radius over half the distance to the neighbours
    "elongation": (1.30, 1.90, 1.35, 1.60, 0.28, 0.12),
    "ragged": (0.09, 0.12, 0.06, 0.13, 0.55, 0.25),
    "rounded": (0.03, 0.02, 0.02, 0.03, 1.10, 0.50),  # share of bright rounded (mitotic, dying) cells
    "er_decay": (1.40, 1.80, 1.40, 1.60, 0.60, 0.30),  # fall from nucleus to rim, 1 / cell radius
    "er_grain": (0.35, 0.25, 0.30, 0.30, 0.80, 0.40),
    "actin_fibres": (0.35, 0.55, 0.45, 0.90, 0.80, 0.40),
    "actin_pitch": (7.0, 8.0, 7.0, 9.0, 0.20, 0.10),  # distance between fibres
    "actin_cortex": (0.55, 0.35, 0.70, 0.35, 0.75, 0.40),
    "rna_decay": (1.30, 1.60, 1.30, 1.50, 0.50, 0.25),
    "rna_nuclear": (0.55, 0.50, 0.60, 0.55, 0.50, 0.20),
    "mito_decay": (0.80, 1.40, 1.20, 1.30, 0.60, 0.30),
    "mito_network": (0.35, 0.80, 0.70, 0.80, 0.70, 0.35),
    "golgi": (0.50, 0.90, 0.80, 0.80, 0.80, 0.35),
    "membrane": (0.25, 0.20, 0.35, 0.20, 0.75, 0.35),
    "hoechst": (10.0, 12.0, 11.0, 10.0, 0.25, 0.10),
    "er": (32.0, 30.0, 29.0, 28.0, 0.25, 0.10),
    "actin": (11.0, 11.5, 12.0, 12.0, 0.25, 0.10),
    "rna": (15.0, 16.0, 15.0, 15.0, 0.25, 0.10),
    "mito": (36.0, 36.0, 34.0, 36.0, 0.25, 0.10),
    "wga": (12.0, 12.0, 12.5, 12.0, 0.25, 0.10),
}
_ROWS = np.array([_TABLE[name] for name in Traits._fields])  # (T, 6)
_BASE = dict(zip(CELL_LINES, _ROWS[:, :4].T, strict=True))  # cell line -> (T,)
_PHENOTYPE_SD, _DRIFT_SD = _ROWS[:, 4], _ROWS[:, 5]  # (T,)
# Tags keep the streams of random numbers apart: the same integers under another tag are another stream.
_PHENOTYPE_TAG, _LINE_TAG, _BATCH_TAG = 101, 102, 103
# Experiment, plate, well: most of RxRx1's variation lies between experiments.
_LEVEL_SCALE = (1.0, 0.35, 0.12)
_CONTROL_STRENGTH, _TREATMENT_STRENGTH = 1.5, 1.0


class BatchEffect(NamedTuple):
    """What experiment, plate and well add to a picture; every field is zero when the strength is.

    Attributes:
        log_gain: (6,) log of the gain per stain.
        offset: (6,) grey levels added to the background.
        bleed: (6, 6) share of stain j's light that also shows in stain i; zero diagonal.
        blur: standard deviation of the defocus, in pixels of a 512 px image.
        shade: (2,) slope of the illumination across the field, as a share of its mean.
        vignette: loss of light from the centre to the corners, as a share.
        log_noise: log of the factor on the camera's noise.
        drift: (T,) shift of the traits, in log units.
    """

    log_gain: F64
    offset: F64
    bleed: F64
    blur: float
    shade: F64
    vignette: float
    log_noise: float
    drift: F64


def phenotype(seed: int, sirna_id: int, line: str, *, kind: str) -> F64:
    """What an siRNA does to a cell line's traits, in log units; nothing for the negative control.

    About half of the traits react to one siRNA, with a sign and size of their own; a cell line scales each
    reaction and adds a smaller one that no other line shows, because knock-downs act through what a line
    expresses.

    Args:
        seed: of the simulation.
        sirna_id: class id.
        line: one of CELL_LINES.
        kind: "treatment", "positive_control" (chosen for strong phenotypes, as in RxRx1) or
            "negative_control".

    Returns:
        (T,) log factors.
    """
    if kind == "negative_control":
        return np.zeros(len(Traits._fields))
    rng = np.random.default_rng([seed, _PHENOTYPE_TAG, sirna_id])
    n = len(Traits._fields)
    z = rng.choice((-1.0, 1.0), n) * rng.uniform(0.7, 2.0, n) * (rng.random(n) < 0.5)
    own = np.random.default_rng([seed, _LINE_TAG, sirna_id, CELL_LINES.index(line)])
    z = z * own.uniform(0.7, 1.2, n) + 0.25 * own.standard_normal(n)
    strength = _CONTROL_STRENGTH if kind == "positive_control" else _TREATMENT_STRENGTH
    # Beyond two standard deviations cells stop looking like cells.
    reaction: F64 = np.clip(strength * z, -2.0, 2.0) * _PHENOTYPE_SD
    return reaction


def batch_effect(seed: int, place: tuple[int, int, int], strength: float) -> BatchEffect:
    """Draw the sum of an experiment's, a plate's and a well's effects.

    Args:
        seed: of the simulation.
        place: experiment index, plate, well index.
        strength: scales everything; 0 gives none at all, 1 resembles a real screen.

    Returns:
        The effect; a function of its arguments alone.
    """
    n = 2 * N_STAINS + N_STAINS * N_STAINS + 5 + len(Traits._fields)
    z = np.zeros(n)
    for depth, scale in enumerate(_LEVEL_SCALE, start=1):
        z += scale * np.random.default_rng([seed, _BATCH_TAG, depth, *place[:depth]]).standard_normal(n)
    z *= strength
    gain, offset, bleed, rest, drift = np.split(z, np.cumsum([N_STAINS, N_STAINS, N_STAINS**2, 5]))
    return BatchEffect(
        log_gain=0.30 * gain,
        offset=1.2 * np.abs(offset),
        bleed=_bleed_matrix(bleed),
        blur=float(1.5 * abs(rest[0])),
        shade=0.25 * rest[1:3],
        vignette=float(np.clip(0.20 * abs(rest[3]), 0.0, 0.8)),
        log_noise=float(0.40 * rest[4]),
        drift=drift * _DRIFT_SD,
    )


def _bleed_matrix(z: F64) -> F64:
    """Turn (36,) normal draws into a bleed-through matrix, (6, 6), entries in [0, 0.6].

    Stains 1-3 receive light from one another only, so that a three-stain image needs no hidden fourth stain.
    """
    bleed = np.clip(0.20 * np.abs(z.reshape(N_STAINS, N_STAINS)), 0.0, 0.6)
    np.fill_diagonal(bleed, 0.0)
    bleed[:3, 3:] = 0.0
    # The later stains have more neighbours; without this they would drown in them.
    bleed[3:] *= 0.4
    return bleed


def traits_of(line: str, *log_factors: F64) -> Traits:
    """The traits of a well: its line's, times every factor given in log units, each (T,).

    >>> traits_of("U2OS").cells
    80.0
    """
    total = np.sum(log_factors, axis=0) if log_factors else 0.0
    return Traits(*(float(v) for v in _BASE[line] * np.exp(total)))
