"""Maps of plates: a square for each well, of any format, as SVG in the colours of the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape

WELL = re.compile(r"([A-Z]|A[A-F])(\d{1,2})")
FORMATS = ((8, 12), (16, 24), (32, 48))  # 96, 384 and 1536 wells
Format = tuple[int, int]


def place(well: str) -> tuple[int, int] | None:
    """Row and column of a well from 0, None for what is no well's name.

    >>> place("B02"), place("AF48"), place("17"), place("A0")
    ((1, 1), (31, 47), None, None)
    """
    found = WELL.fullmatch(well)
    if found is None or not 1 <= int(found[2]) <= FORMATS[-1][1]:
        return None
    row = found[1]
    return 26 * (len(row) - 1) + ord(row[-1]) - ord("A"), int(found[2]) - 1


def format_of(wells: Iterable[str]) -> Format | None:
    """Rows and columns of the smallest plate that has these wells, None if one is no well's name."""
    places = [place(well) for well in wells]
    if None in places:
        return None
    rows, columns = (max(side) for side in zip(*filter(None, places), strict=True))
    return next(form for form in FORMATS if rows < form[0] and columns < form[1])


def plate_map(
    alt: str, form: Format, wells: Mapping[str, str], letters: Mapping[str, str] | None = None
) -> str:
    """A map, an SVG element.

    Args:
        alt: text alternative.
        form: rows and columns of the plate.
        wells: name -> class of its square in the style of the page.
        letters: name -> what is written into its square.
    """
    rows, columns = form
    axis = f'<rect class="plate" x="-.3" y="-.3" width="{columns + 0.5}" height="{rows + 0.5}" rx=".4"/>'
    across, down = columns // 4, -(-rows // 6)
    for x in (1, *range(across, columns + 1, across)):
        axis += f'<text x="{x - 0.55}" y="-.6">{x}</text>'
    for y in range(0, rows, down):
        axis += f'<text x="-1.1" y="{y + 0.85}">{"A" * (y // 26)}{chr(65 + y % 26)}</text>'
    paths: dict[str, str] = {}
    for well, kind in wells.items():
        y, x = place(well) or (0, 0)
        paths[kind] = paths.get(kind, "") + f"M{x} {y}h.9v.9h-.9z"
    drawn = "".join(f'<path class="{kind}" d="{paths[kind]}"/>' for kind in sorted(paths))
    for well, letter in (letters or {}).items():
        y, x = place(well) or (0, 0)
        drawn += f'<text class="mark" x="{x + 0.45}" y="{y + 0.75}">{escape(letter)}</text>'
    return (
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="-1.8 -1.8 {columns + 2.2} {rows + 2.2}">'
        f"{axis}{drawn}</svg>"
    )
