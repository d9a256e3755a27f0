"""The files of figures.py inside a report."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from abra_wilds.errors import InputError

SVG = "{http://www.w3.org/2000/svg}"
NAME = re.compile(r"figure_(\d+|shift)(_.+)?")
TITLES = {
    "5": "Insertion points",
    "6": "Terms of the loss",
    "7": "Accuracy against inference batch size",
    "8": "Shift of batch-norm statistics",
    "9": "Embeddings by the model's own statistics",
    "10": "Embeddings by the statistics of each bio-batch",
    "shift": "Adaptations under label shift",
}
LARGEST_SVG = 400_000  # bytes; pixels are used beyond
LARGEST_CSV = 300_000


@dataclass(frozen=True)
class Embedded:
    """A figure of figures.py.

    Attributes:
        title: what it shows.
        alt: its own title.
        note: what it says below.
        source: the figure as data URI.
        csv: its values as data URI; None where they are large.
        name: of its files.
    """

    title: str
    alt: str
    note: str
    source: str
    csv: str | None
    name: str


def read_figures(folder: Path) -> list[Embedded]:
    """The figures of a folder, by number, and then those that have a name.

    Raises:
        InputError: for a figure that cannot be read.
    """
    found = [(m[1], path) for path in folder.glob("figure_*.png") if (m := NAME.fullmatch(path.stem))]
    found.sort(key=lambda one: (one[0].rjust(len("shift")), one[1]))
    return [read_figure(path, number) for number, path in found]


def read_figure(png: Path, number: str) -> Embedded:
    """One figure, from its .png, .svg and .csv.

    Raises:
        InputError: if a file cannot be read.
    """
    svg, csv = png.with_suffix(".svg"), png.with_suffix(".csv")
    m = NAME.fullmatch(png.stem)
    model = (m[2] or "").strip("_").replace("_", " ") if m else ""
    title = ", ".join(filter(None, [f"Figure {number}: {TITLES.get(number, 'of figures.py')}", model]))
    try:
        small = svg.is_file() and svg.stat().st_size <= LARGEST_SVG
        source = data_uri(svg, "image/svg+xml") if small else data_uri(png, "image/png")
        alt, *notes = svg_texts(svg) if svg.is_file() else [title]
        values = csv.is_file() and csv.stat().st_size <= LARGEST_CSV
        return Embedded(
            title, alt, " ".join(notes), source, data_uri(csv, "text/csv") if values else None, png.stem
        )
    except (OSError, ElementTree.ParseError):
        raise InputError(
            f"{png.with_suffix('')} .png or .svg cannot be read; make the figures again"
        ) from None


def data_uri(path: Path, kind: str) -> str:
    """A file as a data URI."""
    return f"data:{kind};base64,{b64encode(path.read_bytes()).decode()}"


def svg_texts(path: Path) -> list[str]:
    """Title and note of a figure: the texts outside its axes."""
    whole = ElementTree.parse(path).getroot().find(f"{SVG}g")
    texts = [] if whole is None else [g for g in whole if g.get("id", "").startswith("text_")]
    return [" ".join(" ".join(t.itertext()) for t in g.iter(f"{SVG}text")) for g in texts] or [path.stem]
