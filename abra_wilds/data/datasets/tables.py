"""Csv tables as people save them: every value is text until it is checked, and its line is known."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from abra_wilds.errors import InputError

# Of a table's separators the one that finds most columns; where several find as many, the first.
SEPARATORS = ",;\t|"
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# A comment, or what Excel takes the separator from.
_NO_HEADER = re.compile(r"\s*$|#|sep=.\s*$")


def read_table(path: Path, needed: Sequence[str], optional: Sequence[str] | None = ()) -> pd.DataFrame:
    """Columns of a csv table, every value as the text that stands there: NA, 001 and TRUE are names.

    UTF-8, or UTF-16 with its mark; separated by one of SEPARATORS. Empty lines and those that begin with #
    are no rows, and what a line lacks at its end is empty.

    Args:
        path: of the table.
        needed: columns that it must have.
        optional: columns that are read where it has them; None for all others.

    Returns:
        A frame of text, whose index is the line of each row in the file.

    Raises:
        InputError: for missing columns, no rows, or something that is no table.
    """
    lines = list(io.StringIO(_text(path), newline=""))
    start = next((k for k, line in enumerate(lines) if not _NO_HEADER.match(line)), None)
    if start is None:
        raise InputError(f"{path} is an empty table; restore the file")
    found = {mark: set(_header(lines[start], mark)) for mark in SEPARATORS}
    separator = max(SEPARATORS, key=lambda mark: len(found[mark] & set(needed) if needed else found[mark]))
    header = _header(lines[start], separator)
    _check_header(header, needed, path)
    wanted = header if optional is None else {*needed, *optional}
    places = {name: k for k, name in enumerate(header) if name and name in wanted}
    numbers, rows = [], []
    for number, cells in _rows(lines, start, separator, header, path):
        numbers.append(number)
        rows.append([cells[k] for k in places.values()])
    if not rows:
        raise InputError(f"{path} has a header and no rows; restore the file")
    return pd.DataFrame(rows, pd.Index(numbers, name="line"), list(places), dtype=object)


def _text(path: Path) -> str:
    """What a table says, whatever its encoding."""
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise InputError(f"{path} cannot be read ({fault.strerror}); restore the file") from fault
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as fault:
        line = content.count(b"\n", 0, fault.start) + 1
        raise InputError(f"line {line} of {path} is no {encoding} text; save the table as UTF-8") from fault
    if "\0" in text:
        raise InputError(
            f"{path} has bytes of value 0, as a table in UTF-16 without its mark has; save it as UTF-8"
        )
    return text


def _header(line: str, separator: str) -> list[str]:
    """The names of columns."""
    return [name.strip() for name in next(csv.reader([line], delimiter=separator))]


def _check_header(header: list[str], needed: Sequence[str], path: Path) -> None:
    twice = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    if twice:
        raise InputError(f"{path} has two columns {twice[0]}; rename or remove one")
    missing = [column for column in needed if column not in header]
    if not missing:
        return
    near = {column: difflib.get_close_matches(column, header, n=1) for column in missing}
    named = [f"{column} (nearest is {found[0]})" if found else column for column, found in near.items()]
    raise InputError(f"{path} lacks the columns {', '.join(named)}; it must have {', '.join(needed)}")


def _rows(
    lines: Sequence[str], start: int, separator: str, header: Sequence[str], path: Path
) -> list[tuple[int, list[str]]]:
    """The rows after a header, each with its line and as many cells as the header."""
    reader = csv.reader(
        lines[start:], delimiter=separator, strict=True, skipinitialspace=f"{separator} " in lines[start]
    )
    found, n = [], len(header)
    try:
        next(reader)
        for cells in reader:
            if not any(cells) or (cells[0].startswith("#") and len(cells) < n):
                continue
            number = start + reader.line_num
            if any(cells[n:]):
                raise InputError(
                    f"line {number} of {path} has {len(cells)} values and its header {n} columns; correct "
                    "it, and put values with a separator inside into quotes"
                )
            found.append((number, cells[:n] + [""] * (n - len(cells))))
    except csv.Error as fault:
        number = start + reader.line_num
        raise InputError(
            f"line {number} of {path} is no line of a csv table ({fault}); correct it"
        ) from fault
    return found
