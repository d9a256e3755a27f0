"""File systems unlike this one, for tests."""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import math
import os
import resource
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any


def refuse_colons(patch: Any, root: Path, streams: bool = False) -> None:
    """Let nothing below a folder be written whose name has a colon, as on exFAT.

    With `streams` what follows it is a stream of the file before it, as on Windows' own disks, so that
    writing seems to work.
    """

    def bad(path: Any) -> bool:
        at = os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else ""
        return at.startswith(f"{root}{os.sep}") and ":" in os.path.basename(at)

    def as_made(path: Any) -> Any:
        if not bad(path):
            return path
        if streams:
            return os.fspath(path).partition(":")[0] + ".stream"
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), os.fspath(path))

    real_open, real_os_open = builtins.open, os.open

    def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return real_open(as_made(file) if set("wax+") & set(mode) else file, mode, *args, **kwargs)

    def os_opening(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        return real_os_open(as_made(path) if flags & os.O_CREAT else path, flags, *args, **kwargs)

    patch.setattr(builtins, "open", opening)
    patch.setattr(io, "open", opening)
    patch.setattr(os, "open", os_opening)
    for name in ("replace", "rename", "link"):
        real = getattr(os, name)
        patch.setattr(os, name, lambda a, b, *rest, real=real, **more: real(a, as_made(b), *rest, **more))


def rename_colons(folder: Path) -> None:
    """Rename every file below a folder as a disk without colons has it."""
    for path in sorted(folder.rglob("*:*")):
        path.rename(path.with_name(path.name.replace(":", "=")))


class Disk:
    """Where a part of the files below a folder lies; it fills.

    Attributes:
        pattern: of the names of those files.
        room: bytes that it still takes.
        taken: bytes that it has taken.
    """

    def __init__(self, root: Path, pattern: str, room: float):
        self.root, self.pattern, self.room, self.taken = root, pattern, room, 0

    def has(self, path: Any) -> bool:
        """Whether a file lies on it, by its name or its temporary one."""
        at = Path(os.path.abspath(os.fsdecode(path))) if isinstance(path, str | os.PathLike) else Path()
        return at.is_relative_to(self.root) and fnmatch(at.name, self.pattern)


class FileOnDisk(io.FileIO):
    """A file that takes what its disk takes, the last time a part of what it is given."""

    def __init__(self, disk: Disk, *args: Any):
        super().__init__(*args)
        self.disk = disk

    def write(self, data: Any) -> int:
        fits = int(min(len(data), self.disk.room))
        if len(data) and not fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.disk.room -= fits
        self.disk.taken += fits
        return super().write(memoryview(data)[:fits])


def fill(patch: Any, root: Path, pattern: str = "*", room: float = math.inf) -> Disk:
    """Let files below a folder, those of a pattern, lie on a disk with so many bytes of room."""
    disk, real = Disk(root, pattern, room), builtins.open

    def opening(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        if not set("wax+") & set(mode) or not disk.has(file):
            return real(file, mode, buffering, *args, **kwargs)
        raw = FileOnDisk(disk, file, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **kwargs)

    for module, name in ((builtins, "open"), (io, "open"), (tarfile, "bltn_open")):
        patch.setattr(module, name, opening)
    return disk


@contextmanager
def files_of_at_most(n: int) -> Iterator[None]:
    """Inside, the system refuses whatever would make a file longer than n bytes, whoever writes it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    """Inside, a file or folder has these rights, and they bind this thread although it may be root's."""
    before = path.stat().st_mode
    path.chmod(bits)
    held = _capabilities()
    _capabilities(held & ~0b110)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root may do all
    try:
        yield
    finally:
        _capabilities(held)
        path.chmod(before)


def _capabilities(wanted: int | None = None) -> int:
    """What this thread may do, the first 32 bits; set to `wanted` out of what it is permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    head, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, data) == 0
    if wanted is not None:
        data[0] = wanted
        assert libc.capset(head, data) == 0
    return data[0]
