"""Locks on what several commands may write; the system frees them when their holder ends, however it ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from abra_wilds.errors import InputError

FOREVER = -1.0  # as filelock has it


@contextmanager
def hold(path: Path, patience: float = 0.0) -> Iterator[bool]:
    """Hold a lock while the block runs, if nobody else does; its file stays, and names its last holder.

    Args:
        path: of the lock's file.
        patience: seconds to wait for it, or FOREVER.

    Yields:
        Whether the lock is ours.

    Raises:
        InputError: if the file system has no locks, or does not let us write.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as fault:
        why = (fault.strerror if isinstance(fault, OSError) else None) or fault
        raise InputError(
            f"{path} cannot be locked ({why}), so two commands could write there at once; give a folder on "
            "a file system with locks"
        ) from None
    try:
        with suppress(OSError):  # Windows lets nobody write to a locked file
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield True
    finally:
        lock.release()


def holder_of(path: Path) -> str:
    """Who holds a lock, for a message."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "another process"
    except OSError:
        return "another process"
