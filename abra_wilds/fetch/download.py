"""One file over HTTP: resumed where it broke off, and in place only when its size and checksums are right.

A file grows in NAME.part, and a note says which file of which server that is the beginning of (its size and
ETag), so that a later call, or the next attempt after a broken connection, asks for the missing bytes only. A
server that does not know ranges, or whose file has changed, is read from the start.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from abra_wilds.errors import InputError
from abra_wilds.fetch.web import (
    Answer,
    DownloadError,
    Patience,
    Remote,
    described,
    first_byte,
    name_of,
    opened_url,
    patiently,
)
from abra_wilds.results.files import write_text

BLOCK = 1 << 20


class Transfer:
    """A file on its way to a place of ours.

    Args:
        remote: from `probe`.
        path: where it shall lie; its `.part` grows beside it.
        note: a file that remembers what the part is the beginning of, and later the checksum that was found.
        sha256: the checksum it must have, hexadecimal; None where none is known.
    """

    def __init__(self, remote: Remote, path: Path, note: Path, sha256: str | None = None):
        self.remote, self.path, self.note = remote, path, note
        self.expected = sha256
        self.part = path.with_name(f"{path.name}.part")
        noted, found = _read_note(note)
        same = noted is not None and noted.url == remote.url and not noted.differs(remote)
        done = same and path.is_file() and sha256 in (None, found)
        self.sha256 = found if done else None
        # Without a validator only a known checksum can tell that two halves belong together.
        self._resumable = same and bool(remote.validator or sha256) and _size(self.part) <= remote.size

    @property
    def have(self) -> int:
        """Bytes that need not come any more."""
        if self.sha256:
            return self.remote.size
        return _size(self.part) if self._resumable else 0

    @property
    def checked(self) -> str:
        """By what the bytes were found to be right."""
        kinds = {"sha256": self.expected, "md5 of the server": self.remote.md5}
        return ", ".join(["size", *(kind for kind, value in kinds.items() if value)])

    def run(self, bar: tqdm[Any], patience: Patience) -> None:
        """Fetch what is missing, check it and put it in place; nothing to do where that was done before.

        Args:
            bar: of bytes, in which `have` is already counted; moved on as they come.
            patience: how long to try.

        Raises:
            DownloadError: if it does not come, or is wrong; what is wrong is removed.
            InputError: if it cannot be written.
        """
        if self.sha256:
            return
        try:
            if not self.have:
                self._restart(self.remote)
            patiently(self.remote.url, lambda: self._receive(bar, patience), patience, lambda: self.have)
        except _Unwritable as fault:
            raise InputError(
                f"{self.part} cannot be written ({fault}); fix that, and the same command goes on from there"
            ) from fault
        self._check()
        self._remember()
        with open(self.part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.part, self.path)

    def _receive(self, bar: tqdm[Any], patience: Patience) -> None:
        """One attempt at the missing bytes; a connection that ends too early is an OSError."""
        have = self.have
        if have >= self.remote.size:
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and self.remote.validator:
            headers["If-Range"] = self.remote.validator
        with opened_url(self.remote.url, headers, patience) as answer:
            now, start = described(self.remote.url, answer), first_byte(answer)
            if start != have or self.remote.differs(now):
                bar.total = (bar.total or 0) + now.size - self.remote.size
                bar.update(-have)
                self._restart(now)
                if start:
                    raise ConnectionError(f"{name_of(now.url)} has changed on the server")
            self._append(answer, bar)
        if self.have < self.remote.size:
            raise ConnectionError(f"it broke off after {self.have:,} of {self.remote.size:,} bytes")

    def _append(self, answer: Answer, bar: tqdm[Any]) -> None:
        with open(self.part, "ab") as file:
            while block := answer.read(1 << 16):
                with _writing():
                    file.write(block)
                    file.flush()
                bar.update(len(block))

    def _restart(self, remote: Remote) -> None:
        """An empty part of a file, and the note of whose beginning it will be."""
        self.remote = remote
        with _writing():
            for folder in (self.part.parent, self.note.parent):
                folder.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
            self.part.write_bytes(b"")
            self._remember()
        self._resumable = True

    def _remember(self) -> None:
        write_text(self.note, json.dumps({**asdict(self.remote), "sha256": self.sha256}))

    def _check(self) -> None:
        """Compare what lies on the disk with what is known of the file; a wrong part is removed."""
        size = self.part.stat().st_size
        found = digests(self.part)
        for kind, is_, wanted in (
            ("bytes", f"{size:,}", f"{self.remote.size:,}"),
            ("as sha256", found["sha256"], self.expected),
            ("as md5", found["md5"], self.remote.md5),
        ):
            if wanted is not None and is_ != wanted:
                self.part.unlink()
                self.note.unlink()
                raise DownloadError(
                    f"{self.remote.url} came with {is_} {kind} instead of {wanted}, and was removed again"
                )
        self.sha256 = found["sha256"]


class _Unwritable(Exception):
    """The disk, and not the connection, is at fault."""


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise _Unwritable(fault.strerror or fault) from fault


def digests(path: Path) -> dict[str, str]:
    """Hexadecimal sha256 and md5 of a file, in one pass, with a bar where it takes long."""
    found = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    size = path.stat().st_size
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=f"checking {path.stem}", disable=size < 1 << 28)
    with bar, open(path, "rb") as file:
        while block := file.read(BLOCK):
            for digest in found.values():
                digest.update(block)
            bar.update(len(block))
    return {kind: digest.hexdigest() for kind, digest in found.items()}


def _read_note(path: Path) -> tuple[Remote | None, str | None]:
    """What a note says: of which file, and the sha256 it was found to have."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        found = note.pop("sha256")
        return Remote(**note), found
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
