"""The archive of a submission to the WILDS leaderboard: its nine files, how they are packed and unpacked.

Colons are no part of a file name on every system, so archives are written and read in memory: the names
WILDS expects exist inside them alone.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from abra_wilds.errors import InputError
from abra_wilds.results.files import atomic_write
from abra_wilds.results.names import COLON, predictions_name, with_sign

BUNDLED_SPLITS = ("val", "test", "id_test")
SEEDS = (0, 1, 2)
README = "README.md"
ENDINGS = (".tar.gz", ".zip")
# No predictions file of RxRx1-WILDS is larger than a quarter of a million bytes.
LARGEST = 1 << 24
# As WILDS reads them, by Python's literals, which have no leading zero.
CLASS_ID = re.compile(rb"-?(0|[1-9][0-9]{0,8})")


@dataclass(frozen=True)
class BundleMember:
    """A file in an archive.

    Attributes:
        name: with forward slashes, without "./" in front.
        kind: "file", or what it is instead.
        content: of a file; None if it is no file or too large.
    """

    name: str
    kind: str
    content: bytes | None


def member_name(split: str, seed: int) -> str:
    """What WILDS' evaluator calls the predictions of a split by the best epoch of a seed."""
    return f"rxrx1/{predictions_name('rxrx1', split, seed, 'best')}"


def wrong_ids(content: bytes, n: int, n_classes: int) -> str | None:
    """What is wrong with a predictions file as "found ..., expected ...", or None.

    Args:
        content: one class id a line.
        n: images in the split.
        n_classes: ids run from 0 to one below it.
    """
    lines = content.splitlines()
    if len(lines) != n:
        return f"found {len(lines):,} rows, expected {n:,}"
    for number, line in enumerate(lines, start=1):
        text = line[:40].decode(errors="replace")
        if not CLASS_ID.fullmatch(line):
            return f"found {text!r} in line {number:,}, expected an integer"
        if not 0 <= int(line) < n_classes:
            return f"found class {text} in line {number:,}, expected 0 to {n_classes - 1:,}"
    return None


def same_predictions(files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Names of files of the same split with the same content: a file and the one of an earlier seed.

    Runs that differ in the seed do not agree on thousands of images, so one of the two is a copy.

    Args:
        files: name -> content, by `member_name`.
    """
    for split in BUNDLED_SPLITS:
        first: dict[bytes, str] = {}
        for name in (member_name(split, seed) for seed in SEEDS):
            if name in files and (known := first.setdefault(files[name], name)) != name:
                yield name, known


def check_out(out: Path) -> None:
    """Raise unless an archive can be written there.

    Raises:
        InputError: for an unknown ending, a name that some system cannot hold, or a missing folder.
    """
    if not out.name.endswith(ENDINGS) or re.search(r'[<>:"\\|?*\x00-\x1f]', out.name):
        raise InputError(
            f"--out must end in {' or '.join(ENDINGS)} and have a name that every system can hold; got "
            f"{out.name!r}"
        )
    if not out.parent.is_dir():
        raise InputError(f"--out {out} is in a folder that does not exist; make {out.parent} first")


def write_archive(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files into an archive, whole or not at all; the same files give the same bytes.

    Args:
        out: ends in .tar.gz or .zip.
        files: name -> content.
    """
    pack = _zip if out.name.endswith(".zip") else _tar_gz
    with atomic_write(out) as temporary:
        temporary.write_bytes(pack(files))


def _tar_gz(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def _zip(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)  # of the year 1980
            info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return packed.getvalue()


def read_archive(path: Path) -> list[BundleMember]:
    """Everything but folders in an archive or an unpacked one; nothing is unpacked to disk.

    Raises:
        InputError: if it is neither, or damaged.
    """
    if path.is_dir():
        return sorted(_folder_members(path), key=lambda member: member.name)
    try:
        if zipfile.is_zipfile(path):
            return list(_zip_members(path))
        return list(_tar_members(path))
    # Damaged archives are answered with zlib.error, EOFError, struct.error and others; encrypted ones with
    # RuntimeError.
    except Exception as fault:
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise InputError(
            f"{path} cannot be read as an archive ({reason}); give a .tar.gz, a .zip or an unpacked folder"
        ) from None


def climbs(name: str) -> bool:
    """Whether a name leads out of the folder that it is unpacked into.

    >>> [climbs(name) for name in ("rxrx1/a.csv", "/a", "rxrx1/../../a", "C:/a")]
    [False, True, True, True]
    """
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or bool(re.match("[A-Za-z]:", name))


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _tar_members(path: Path) -> Iterator[BundleMember]:
    with tarfile.open(path) as tar:
        for info in tar:
            if info.isdir() and not climbs(info.name):
                continue
            kind = "file" if info.isreg() else "a link" if info.issym() or info.islnk() else "no plain file"
            file = tar.extractfile(info) if info.isreg() and info.size <= LARGEST else None
            yield BundleMember(_plain(info.name), kind, None if file is None else file.read())


def _zip_members(path: Path) -> Iterator[BundleMember]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir() and not climbs(info.filename):
                continue
            link = stat.S_ISLNK(info.external_attr >> 16)
            content = None if link or info.file_size > LARGEST else archive.read(info)
            yield BundleMember(_plain(info.filename), "a link" if link else "file", content)


def _folder_members(path: Path) -> Iterator[BundleMember]:
    for folder, folders, names in os.walk(path):
        for name in [*names, *(f for f in folders if Path(folder, f).is_symlink())]:
            file = Path(folder, name)
            kind = "a link" if file.is_symlink() else "file" if file.is_file() else "no plain file"
            small = kind == "file" and file.stat().st_size <= LARGEST
            official = with_sign(file.relative_to(path).as_posix(), COLON)
            yield BundleMember(official, kind, file.read_bytes() if small else None)
