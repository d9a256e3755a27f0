"""File systems unlike this one, for tests."""

from __future__ import annotations

import builtins
import errno
import io
import os
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
