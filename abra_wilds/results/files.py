"""Files that are whole or not there."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from abra_wilds.errors import InputError

FORMULA = ("=", "+", "-", "@", "\t", "\r")


@contextmanager
def refusals_named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Inside, what the system refuses carries the name of a file, in place of none or of its temporary name.

    A full disk refuses a write, and a write knows no name.

    Raises:
        OSError: with that name.
    """
    try:
        yield
    except OSError as fault:
        if fault.errno is None or str(fault.filename or temporary) != str(temporary):
            raise
        raise OSError(fault.errno, os.strerror(fault.errno), str(path)) from fault


@contextmanager
def all_or_none(paths: Iterable[Path]) -> Iterator[None]:
    """Files that are new go again where the block fails, so that the same command may write them."""
    try:
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name to write to; renamed to `path` when the block ends well, removed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with refusals_named(path, temporary):
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; renamed to `path` when the block ends well, removed when it does not.

    A folder that is there is replaced, so that readers find the old one, the new one, or for a moment none.
    """
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}{end}") for end in (".tmp", ".old.tmp"))
    try:
        with refusals_named(path):
            temporary.mkdir()
            yield temporary
            for written in temporary.iterdir():
                with open(written, "rb") as file:
                    os.fsync(file.fileno())
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def make_out(folder: Path) -> None:
    """Make the folder that --out names.

    Raises:
        InputError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError(f"--out {folder} cannot be made ({fault.strerror}); give another folder") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Rows of the same columns, one or more, as CSV that a spreadsheet opens without computing anything.

    Text that a spreadsheet would take for a formula gets an apostrophe in front (CWE-1236); numbers stay, and
    one that is missing, nan, is empty.

    >>> csv_text([{"name": "=1+1", "change": -0.5, "gain": float("nan")}])
    "name,change,gain\n'=1+1,-0.5,\n"
    """

    def cell(value: Any) -> Any:
        if not isinstance(value, str):
            return None if value != value else value
        # The module csv leaves a carriage return unquoted where lines end in another way.
        return ("'" if value.startswith(FORMULA) else "") + value.replace("\r", " ")

    out = io.StringIO()
    writer = csv.DictWriter(out, list(map(cell, rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows({cell(name): cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def same_file(source: Path, path: Path) -> None:
    """Give a file a second name, or a copy where the file system has no links; later writes part them."""
    with atomic_write(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def named_yaml(name: str | Path, folder: Path) -> Path:
    """A file of the package's by its name without ending, unless a file of the user's is called so.

    A folder of that name hides nothing: `make demo` makes a folder demo, and the spec demo is still meant.

    Args:
        name: a path, or the name of a file in `folder`.
        folder: of the package's files.
    """
    packaged = folder / f"{str(name).removesuffix('.yaml')}.yaml"
    return packaged if packaged.is_file() and not Path(name).is_file() else Path(name)


def read_predictions(path: Path) -> array[int]:
    """The class ids of a predictions file, 64 bits each.

    Raises:
        InputError: for a line that is no such integer.
    """
    try:
        return array("q", map(int, path.read_bytes().split()))
    except (ValueError, OverflowError):
        raise InputError(f"{path} is no list of class ids; predict again") from None


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
