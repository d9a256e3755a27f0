"""Archives, also such that come in parts, unpacked without a byte outside the folder they are meant for.

Members are written by us, as plain files below the folder; a name that climbs out of it, is absolute, or a
member that is neither file nor folder (a link, a device) is refused, which is stricter than tarfile's filter
"data" and holds for zip as well.
"""

from __future__ import annotations

import io
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from abra_wilds.errors import InputError

# x.tar.gz, x.zip; and their parts x.tar.gz.part-000, x.tar.gz.00, x.tar.gz.partaa, x.tar.gz.aa.
_ARCHIVE = re.compile(r"(?P<archive>.+\.(?:tar\.gz|tgz|tar|zip))(?:\.(?:part)?[-_.]?(?:\d+|[a-z]{2}))?", re.I)


class ArchiveMember(NamedTuple):
    """A file or folder in an archive.

    Attributes:
        name: its path, as the archive has it.
        kind: "file", "folder" or "other".
        content: of a file.
        done: about how many bytes of the archive are behind us, for the bar.
    """

    name: str
    kind: str
    content: IO[bytes] | None
    done: int


class Joined(io.RawIOBase):
    """Files one behind the other, read as one."""

    def __init__(self, paths: Sequence[Path]):
        self.starts, self.size = [], 0
        for path in paths:
            self.starts.append(self.size)
            self.size += path.stat().st_size
        self.files = [path.open("rb") for path in paths]
        self.at = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes before what is read next."""
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, as in any file."""
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, into: Any) -> int:
        """Read up to the end of the file that `at` lies in; 0 at the end of the last."""
        for start, file in zip(reversed(self.starts), reversed(self.files), strict=True):
            if start <= self.at:
                file.seek(self.at - start)
                n = file.readinto(into)
                self.at += n
                return n
        return 0

    def close(self) -> None:
        """Close them all."""
        for file in self.files:
            file.close()
        super().close()


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
        parts: its files, in order.
        into: the folder; what is there already stays, unless a member has its name.

    Raises:
        InputError: if it is damaged, or a member is a link or would lie outside `into`.
    """
    with Joined(parts) as raw, io.BufferedReader(raw, 1 << 20) as file:
        read = zip_members if name.lower().endswith(".zip") else tar_members
        bar = tqdm(total=raw.size, unit="B", unit_scale=True, desc=f"unpacking {name}", mininterval=0.5)
        with bar:
            try:
                for member in read(file):
                    _write(name, member, into)
                    bar.update(member.done - bar.n)
                bar.update(raw.size - bar.n)
            # RuntimeError: a password is wanted, or a way to compress that zipfile does not know.
            except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as fault:
                raise InputError(
                    f"{name} cannot be unpacked ({fault}); it is damaged at its source"
                ) from fault


def tar_members(file: IO[bytes]) -> Iterator[ArchiveMember]:
    """Members of a tar archive, compressed or not, in the order of its bytes."""
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        for info in tar:
            kind = "file" if info.isreg() else "folder" if info.isdir() else "other"
            yield ArchiveMember(info.name, kind, tar.extractfile(info) if info.isreg() else None, file.tell())


def zip_members(file: IO[bytes]) -> Iterator[ArchiveMember]:
    """Members of a zip archive; their checksums are compared while they are read."""
    done = 0
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)
            done += info.compress_size
            if info.is_dir():
                yield ArchiveMember(info.filename, "folder", None, done)
            elif mode not in (0, stat.S_IFREG):
                yield ArchiveMember(info.filename, "other", None, done)
            else:
                with archive.open(info) as content:
                    yield ArchiveMember(info.filename, "file", content, done)


def inside(name: str, source: str) -> PurePosixPath:
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
            f"{source} names {name!r}, which may lie outside the data set's folder; nothing of it is kept, "
            "and the source is not to be trusted"
        )
    return path


def _write(archive: str, member: ArchiveMember, into: Path) -> None:
    path = into / inside(member.name, archive)
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
    elif member.content is None:
        raise InputError(
            f"{archive} holds {member.name!r}, which is a link or a device; an archive of a data set has "
            "files and folders only, so the source is not to be trusted"
        )
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            shutil.copyfileobj(member.content, out, 1 << 20)
