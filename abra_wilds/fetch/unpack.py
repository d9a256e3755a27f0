"""Archives, also such that come in parts, unpacked without a byte outside the folder they are meant for.

tarfile and zipfile write the members. Of a name that is absolute or climbs they make another one, and tarfile
keeps links; here such a member is refused.
"""

from __future__ import annotations

import errno
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from tqdm import tqdm

from abra_wilds.errors import InputError

# x.zip, x.tar.gz; and parts of the latter: x.tar.gz.part-000, x.tar.gz.00, x.tar.gz.partaa, x.tar.gz.aa.
_ARCHIVE = re.compile(
    r"(?P<archive>.+\.(?:tar\.gz|tgz|tar|zip))(?:(?<!zip)\.(?:part)?[-_.]?(?:\d+|[a-z]{2}))?", re.I
)

DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(RuntimeError, ValueError, TypeError, LookupError, OverflowError, MemoryError),
)
# What is no place for a file, or of a member's name none; None is bz2's and gzip's.
NO_NAME = (None, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ)


def archives(names: Iterable[str]) -> dict[str, list[str]]:
    """The archives among names of files, each with the names of its parts in order.

    >>> archives(["README.md", "x.tar.gz.part-001", "x.tar.gz.part-000", "y.zip"])
    {'x.tar.gz': ['x.tar.gz.part-000', 'x.tar.gz.part-001'], 'y.zip': ['y.zip']}
    """
    found: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (len(name), name)):
        if match := _ARCHIVE.fullmatch(name):
            parts = found.setdefault(match["archive"], [])
            # The whole archive sorts before its parts, and makes them superfluous.
            if parts != [match["archive"]]:
                parts.append(name)
    return dict(sorted(found.items()))


def unpack(name: str, parts: Sequence[Path], into: Path) -> None:
    """Unpack an archive.

    Args:
        name: of the archive, for messages and by its ending.
        parts: its files, in order; one of a zip.
        into: the folder; what is there already stays, unless a member has its name.

    Raises:
        InputError: if it is damaged, or a member is a link or would lie outside `into`.
    """
    size = sum(part.stat().st_size for part in parts)
    with ExitStack() as stack:
        files = [stack.enter_context(part.open("rb")) for part in parts]
        bar = stack.enter_context(tqdm(total=size, unit="B", unit_scale=True, desc=f"unpacking {name}"))
        try:
            if name.lower().endswith(".zip"):
                _unzip(name, files[0], into, bar)
            else:
                _untar(name, _Joined(files, bar), into)
        # RuntimeError: a password is wanted, or a way to compress that zipfile does not know. Damaged headers
        # lead to the rest; what the disk refuses is the caller's.
        except (*DAMAGED, OSError) as fault:
            if isinstance(fault, OSError) and fault.errno not in NO_NAME:
                raise
            raise InputError(
                f"{name} cannot be unpacked ({fault}); remove {parts[0]} and run the command again; if that "
                "does not help, it is damaged at its source"
            ) from fault


def _untar(name: str, file: Any, into: Path) -> None:
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        # Python 3.11.3 has no filter yet; what it would refuse is refused here, and it settles permissions.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(into, _plain(name, tar))


def _plain(name: str, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        _check_member(name, member.name, member.isreg() or member.isdir())
        yield member


def _unzip(name: str, file: IO[bytes], into: Path, bar: tqdm[Any]) -> None:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check_member(name, member.orig_filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
        for member in archive.infolist():
            archive.extract(member, into)
            bar.update(member.compress_size)


def _check_member(archive: str, name: str, plain: bool) -> None:
    inside(name, archive)
    if not plain:
        raise InputError(
            f"{archive} holds {name!r}, which is a link or a device; an archive of a data set has files and "
            "folders only; do not trust the source"
        )


def inside(name: str, source: str) -> str:
    """A relative path that stays inside the folder it is joined to.

    Args:
        name: the path as it came.
        source: who named it, for the message.

    Raises:
        InputError: if it is absolute, climbs, or would on another system.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or PureWindowsPath(name).drive:
        raise InputError(
            f"{source} names {name!r}, which may lie outside the data set's folder; nothing of it was kept; "
            "do not trust the source"
        )
    return str(path)


class _Joined:
    """Files one after the other, read as one by tarfile, which asks for no more than `read` of a stream."""

    def __init__(self, files: Sequence[IO[bytes]], bar: tqdm[Any]):
        self.files, self.bar = files, bar

    def read(self, n: int) -> bytes:
        """At most `n` bytes; none after the last file."""
        block = next(filter(None, (file.read(n) for file in self.files)), b"")
        self.bar.update(len(block))
        return block
