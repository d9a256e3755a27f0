"""Paint a field of cells: positions, bodies, nuclei and six stains, as light before it meets the microscope.

Every cell's patch of pixels is computed in one array; a pixel belongs to the cell whose normalised radius
`rho` is smallest there, which gives touching cells a common border as in a confluent layer and leaves free
edges elsewhere.

Letters: n cells, S image side, P patch side, M pixels kept (a pixel shared by two cells counts twice).
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from abra_wilds.simulate.arrays import F32, Ints
from abra_wilds.simulate.colony import Colony, draw_colony, magnification
from abra_wilds.simulate.pixels import Pixels, Texture
from abra_wilds.simulate.stains import STAIN_PAINTERS
from abra_wilds.simulate.traits import Traits

_REACH = 1.2  # no outline reaches further than this many semi-axes


def paint(traits: Traits, stains: tuple[int, ...], size: int, rng: np.random.Generator) -> F32:
    """Paint one field.

    Args:
        traits: of the well.
        stains: which of the six to paint, 0-based.
        size: S.
        rng: decides the cells; a different subset of stains shows the same cells.

    Returns:
        (len(stains), S, S) light in grey levels, before background, blur and noise.
    """
    k = magnification(size)
    colony = draw_colony(traits, size, k, rng)
    texture = Texture(*(_field(rng, size, period * k) for period in (3.0, 7.0, 40.0)))
    warp = np.stack([_field(rng, size, 20.0 * k), _field(rng, size, 20.0 * k)])  # (2, S * S)
    pixels = _pixels(traits, colony, size, warp * np.float32(25 * k))
    canvas = np.empty((len(stains), size, size), np.float32)
    for row, stain in enumerate(stains):
        light = STAIN_PAINTERS[stain](traits, pixels, texture, colony, k) * pixels.body
        light *= np.float32(traits.levels[stain]) * colony.bright[:, stain].astype(np.float32)[pixels.cell]
        canvas[row] = np.bincount(pixels.where, light, minlength=size * size).reshape(size, size)
    return canvas


def _field(rng: np.random.Generator, size: int, period: float) -> F32:
    """A smooth random field, (S * S,): a coarse grid of normal draws, interpolated."""
    period = max(period, 1.0)
    span = size / period
    grid = rng.standard_normal((int(np.ceil(span)) + 4,) * 2, dtype=np.float32)
    image = Image.fromarray(grid).resize(
        (size, size), Image.Resampling.BICUBIC, box=(2, 2, 2 + span, 2 + span)
    )
    # Interpolation between independent points takes about a third of the amplitude.
    return np.asarray(image).ravel() * np.float32(1.4)


def _pixels(traits: Traits, colony: Colony, size: int, warp: F32) -> Pixels:
    """Assign pixels to cells and measure them; patches of similar size are computed together.

    Args:
        traits: of the well.
        colony: its cells.
        size: S.
        warp: (2, S * S) displacement of the most ragged outlines, in pixels; it makes shapes organic.

    Returns:
        The pixels of all cells.
    """
    order = np.argsort(colony.a)
    soft = warp * np.float32(traits.ragged)
    parts = [_patch(colony, group, size, soft) for group in np.array_split(order, 8) if len(group)]
    where, cell, rho, dx, dy = (np.concatenate(column) for column in zip(*parts, strict=True))
    nearest = np.full(size * size, np.inf, np.float32)
    np.minimum.at(nearest, where, rho)
    depth = rho - nearest[where]
    keep = np.flatnonzero(depth < 0.3)
    where, cell, rho, dx, dy, depth = (column[keep] for column in (where, cell, rho, dx, dy, depth))
    turn, lean = colony.angle, colony.angle + colony.tilt
    angles = np.cos(turn), np.sin(turn), np.cos(lean), np.sin(lean)
    per_cell = np.stack([*colony.shift.T, *colony.nucleus.T, *angles]).astype(np.float32)  # (8, n)
    sx, sy, na, nb, along_x, along_y, cos, sin = per_cell.take(cell, axis=1)  # each (M,)
    across = dy * along_x - dx * along_y
    # Nuclei are stiff: they follow a displacement of their own, not that of the body.
    bend = warp[:, where] * np.float32(0.6 * traits.nucleus_ragged - traits.ragged)
    ex, ey = dx - sx + bend[0], dy - sy + bend[1]
    nu = np.stack([(ex * cos + ey * sin) / na, (ey * cos - ex * sin) / nb])  # (2, M)
    edge = np.clip((1.0 - np.sqrt(nu[0] ** 2 + nu[1] ** 2)) * nb / 1.2 + 0.5, 0.0, 1.0)
    rim = np.clip((1.0 - rho) * 3.5, 0.0, 1.0)
    body = np.maximum(rim, edge) * np.exp(-depth * 10.0)
    return Pixels(where, cell, body, rho, edge, nu, across)


def _patch(colony: Colony, group: Ints, size: int, warp: F32) -> tuple[Ints, Ints, F32, F32, F32]:
    """The pixels inside the outlines of a group of cells.

    Args:
        colony: all cells.
        group: (g,) indices of those to compute.
        size: S.
        warp: (2, S * S) displacement that makes outlines organic, in pixels.

    Returns:
        where, cell, rho, dx, dy: flat pixel index, cell index, normalised radius and offset from the centre.
    """
    x, y, angle, a, b = (v[group].astype(np.float32) for v in colony[:5])
    cos, sin = np.cos(angle), np.sin(angle)
    half = int(np.ceil(_REACH * a.max())) + 1
    span = np.arange(-half, half + 1, dtype=np.float32)
    x0, y0 = np.round(x), np.round(y)
    cols, rows = x0[:, None] + span, y0[:, None] + span  # (g, P)
    across, down = cols - x[:, None], rows - y[:, None]  # (g, P)
    # The ellipse without warp and wobble, as a quadratic form: it tells cheaply which pixels are worth the
    # rest.
    xx, yy = (cos / a) ** 2 + (sin / b) ** 2, (sin / a) ** 2 + (cos / b) ** 2
    xy = 2 * sin * cos * (a**-2 - b**-2)
    square = (xx[:, None] * across**2)[:, None, :] + (yy[:, None] * down**2)[:, :, None]  # (g, P, P)
    square += (xy[:, None] * down)[:, :, None] * across[:, None, :]
    square[(rows < 0) | (rows >= size)] = np.inf
    square.transpose(0, 2, 1)[(cols < 0) | (cols >= size)] = np.inf
    near = np.flatnonzero(square < _REACH**2)  # (M',)
    line, j = np.divmod(near, len(span))
    g, row = line // len(span), rows.ravel()[line]
    where = (row * size + cols[g, j]).astype(np.intp)
    dx, dy = across[g, j] + warp[0, where], down.ravel()[line] + warp[1, where]
    shape = np.stack([cos / a, sin / a, cos / b, sin / b, *colony.wobble[group].T]).astype(
        np.float32
    )  # (8, g)
    rho = _radius(dx, dy, shape.take(g, axis=1))
    keep = np.flatnonzero(rho < 1.0)
    return where[keep], group[g[keep]], rho[keep], dx[keep], dy[keep]


def _radius(dx: F32, dy: F32, shape: F32) -> F32:
    """The distance from the centre in units of the outline in that direction.

    Args:
        dx: (M,) offset from the centre, to the right.
        dy: (M,) the same, downwards.
        shape: (8, M) cosine and sine of the cell's direction over its long, then over its short semi-axis;
            then the weights of the outline's harmonics.

    Returns:
        (M,), 1 at the outline.
    """
    ax, ay, bx, by, *w = shape
    u, v = dx * ax + dy * ay, dy * bx - dx * by
    r = np.sqrt(u * u + v * v) + np.float32(1e-6)
    c, s = u / r, v / r
    c2, s2 = c * c, s * s
    wave = w[0] * c * (4 * c2 - 3) + w[1] * s * (3 - 4 * s2)
    wave += w[2] * c * (16 * c2 * c2 - 20 * c2 + 5) + w[3] * s * (16 * s2 * s2 - 20 * s2 + 5)
    rho: F32 = r / np.clip(1.0 + wave, 0.6, _REACH)
    return rho
