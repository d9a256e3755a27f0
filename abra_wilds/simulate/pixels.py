"""What a stain is painted from: the pixels of cells, and random textures."""

from __future__ import annotations

from typing import NamedTuple

from abra_wilds.simulate.arrays import F32, Ints


class Pixels(NamedTuple):
    """The (M,) pixels that belong to cells, with what every stain needs to know of them.

    Attributes:
        where: flat index into the image.
        cell: index of the cell.
        body: how much of the pixel is cell, 0 to 1.
        rho: distance from the cell's centre, 1 at its outline.
        nuclear: how much of the pixel is nucleus, 0 to 1.
        nu: (2, M) position in units of the nucleus' semi-axes.
        across: distance from the long axis, in image pixels.
    """

    where: Ints
    cell: Ints
    body: F32
    rho: F32
    nuclear: F32
    nu: F32
    across: F32


class Texture(NamedTuple):
    """Random fields, each (S * S,) with roughly unit variance, from fine to coarse."""

    grain: F32
    weave: F32
    drift: F32
