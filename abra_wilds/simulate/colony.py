"""Where the cells of a field are, and how each of them differs from the next.

Letters: n cells, S image side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from abra_wilds.simulate.arrays import F64
from abra_wilds.simulate.traits import Traits

FULL_SIDE = 512  # the side, in pixels, in which all lengths of the traits are given


def magnification(size: int) -> float:
    """Pixels per trait pixel: 1 at 512 px, 0.71 at 256, 0.35 at 64.

    A small image shows a smaller field with smaller cells, half of each in log units: shrinking alone would
    leave 3 px nuclei at 64 px, cropping alone would leave two cells.

    >>> magnification(128)
    0.5
    """
    return float(np.sqrt(size / FULL_SIDE))


class Colony(NamedTuple):
    """Where the cells of a field are and how each differs; lengths in image pixels, angles in radians.

    Attributes:
        x: (n,) column of the centre; may lie outside the frame.
        y: (n,) row of the centre.
        angle: (n,) direction of the long axis.
        a: (n,) long semi-axis.
        b: (n,) short semi-axis.
        wobble: (n, 4) cosine and sine weights of the outline's third and fifth harmonic.
        nucleus: (n, 2) semi-axes of the nucleus.
        tilt: (n,) angle between the nucleus and the body.
        shift: (n, 2) centre of the nucleus relative to the cell's.
        dots: (n, 3, 2) nucleoli, in units of the nucleus' semi-axes.
        bright: (n, 6) brightness of the stains relative to the well's.
    """

    x: F64
    y: F64
    angle: F64
    a: F64
    b: F64
    wobble: F64
    nucleus: F64
    tilt: F64
    shift: F64
    dots: F64
    bright: F64


def draw_colony(traits: Traits, size: int, k: float, rng: np.random.Generator) -> Colony:
    """Draw the cells of a field and of a margin around it, so that cells are cut by the frame."""
    xy = _positions(traits, size / k, rng)  # (n, 2), trait pixels
    n = len(xy)
    near = cKDTree(xy).query(xy, k=range(2, min(5, n + 1)))[0].mean(1) if n > 1 else np.full(n, 60.0)
    spacing = np.clip(0.84 * near, 1.35 * traits.nucleus, 3.8 * traits.nucleus)  # (n,)
    crowding = (2.2 * traits.nucleus / spacing) ** 0.6  # crowded cells are taller, hence brighter
    rounded = rng.random(n) < traits.rounded
    radius = np.where(rounded, 1.15 * traits.nucleus, spacing * traits.body * rng.lognormal(0.0, 0.12, n))
    stretch = np.sqrt(
        np.where(rounded, 1.05, np.maximum(traits.elongation * rng.lognormal(0.0, 0.2, n), 1.0))
    )
    core = traits.nucleus * np.exp(0.11 * rng.standard_normal(n)) / crowding**0.4
    core = np.minimum(np.where(rounded, 0.75 * core, core), 0.85 * radius)
    oval = np.sqrt(np.maximum(traits.nucleus_aspect * rng.lognormal(0.0, 0.1, n), 1.0))
    bright = rng.lognormal(0.0, 0.16, (n, 6)) * (crowding * rng.lognormal(0.0, 0.22, n))[:, None]
    return Colony(
        x=(xy[:, 0] * k),
        y=(xy[:, 1] * k),
        angle=rng.uniform(0, np.pi, n),
        a=radius * stretch * k,
        b=radius / stretch * k,
        wobble=rng.standard_normal((n, 4))
        * (1.0, 1.0, 0.5, 0.5)
        * np.where(rounded, 0.0, traits.ragged)[:, None],
        nucleus=np.stack([core * oval, core / oval], 1) * k,
        tilt=rng.normal(0.0, 0.5, n),
        shift=rng.normal(0.0, 0.10, (n, 2)) * radius[:, None] * k,
        dots=rng.uniform(-0.55, 0.55, (n, 3, 2)),
        bright=bright * np.where(rounded, 2.2, 1.0)[:, None],
    )


def _positions(traits: Traits, side: float, rng: np.random.Generator) -> F64:
    """Cell centres, (n, 2), in trait pixels, over a field of the given side and a margin of 45."""
    margin = 45.0
    wide = side + 2 * margin
    expected = traits.cells * (wide / FULL_SIDE) ** 2
    n = max(3, round(expected + rng.standard_normal() * 0.4 * np.sqrt(expected)))
    xy = rng.uniform(0, wide, (n, 2))
    heart = rng.uniform(0, wide, (max(1, n // 25), 2))  # centres of the colonies
    joins = rng.random(n) < min(traits.clustering, 0.95)
    target = heart[rng.integers(len(heart), size=n)] + rng.normal(0.0, 80.0, (n, 2))
    # Reflected at the rim, so that a colony does not lose cells there.
    xy = np.where(joins[:, None], np.abs(wide - np.abs(wide - np.abs(target))), xy)
    reach = 2.1 * traits.nucleus
    for _ in range(6):  # cells exclude one another
        right, down = (v[:, None] - v for v in xy.T)  # (n, n) each
        dist = np.sqrt(right * right + down * down) + 1e-6
        push = np.clip(reach - dist, 0.0, None) / dist * 0.35
        np.fill_diagonal(push, 0.0)
        xy = xy + np.stack([(right * push).sum(1), (down * push).sum(1)], 1)
    return xy - margin
