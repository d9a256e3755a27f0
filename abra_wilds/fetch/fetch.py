"""`abra-wilds fetch`: image sets of WILDS or six-channel RxRx1 from where they are published, whole or not.

Everything comes into a hidden folder beside the data set's, is checked there, unpacked there, and becomes the
data set by one rename at the end. What a killed process leaves is that hidden folder, from which the next
call goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from abra_wilds.errors import InputError
from abra_wilds.fetch.download import DownloadError, Remote, check, here, receive, session
from abra_wilds.fetch.sources import SOURCES, Source, is_there, listed, manual
from abra_wilds.fetch.unpack import archives, unpack
from abra_wilds.results.files import write_text

FETCHED = "FETCHED.json"
# PNGs do not compress, so archives of them unpack to their own size; the rest is for half-filled disk blocks.
UNPACKED = 1.1


def fetch(
    name: str, root: Path, source: str | None = None, sums: Mapping[str, str] | None = None
) -> Path | None:
    """Fetch a data set into its folder in `root`.

    Args:
        name: a key of SOURCES.
        root: the folder above it; made if absent.
        source: another address below which the same files are.
        sums: sha256 of files by name, beside or instead of those that are published.

    Returns:
        The data set's folder, or None if it was there already and nothing was done.

    Raises:
        InputError: if it cannot be fetched, is not what was expected, or something else is in its place.
    """
    plan = SOURCES[name]
    target, work = root / plan.folders[0], root / f".{plan.folders[0]}.fetch"
    if is_there(plan, root):
        shutil.rmtree(work, ignore_errors=True)
        return None
    try:
        with session() as talk:
            base, remotes = listed(plan, source, talk)
            files = work_folder(work, remotes)
            remotes = expected(remotes, sums or {})
            check_space(name, root, remotes, files)
            total, have = sum(r.size for r in remotes), sum(here(r, files) for r in remotes)
            with tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=f"fetching {name}") as bar:
                for remote in remotes:
                    receive(talk, remote, files, bar)
        with tqdm(total=total, unit="B", unit_scale=True, desc=f"checking {name}") as bar:
            found = {remote.name: check(remote, files, bar) for remote in remotes}
    except DownloadError as fault:
        raise InputError(f"{fault}; {manual(plan, root)}") from fault
    folder = unpacked([remote.name for remote in remotes], files, plan)
    for release in (entry for entry in plan.holds if entry.startswith("RELEASE")):
        (folder / release).touch()
    write_text(folder / FETCHED, json.dumps(receipt(name, base, remotes, found), indent=1) + "\n")
    os.replace(folder, target)
    shutil.rmtree(work, ignore_errors=True)
    return target


def work_folder(work: Path, remotes: Sequence[Remote]) -> Path:
    """Where files grow: a folder of what the server has now, so that no two versions of a file are joined.

    What has grown of other versions is removed, and what an earlier call began to unpack.
    """
    has = sorted((r.name, r.size, r.sha256 or f"{r.url} {r.validator}") for r in remotes)
    files = work / hashlib.sha256(json.dumps(has).encode()).hexdigest()[:16]
    for other in work.glob("*"):
        if other != files:
            shutil.rmtree(other, ignore_errors=True)
    return files


def expected(remotes: Sequence[Remote], sums: Mapping[str, str]) -> list[Remote]:
    """Files with the checksums that the user gave.

    Raises:
        InputError: if one is of another file.
    """
    names = sorted(remote.name for remote in remotes)
    if unknown := sorted(set(sums) - set(names)):
        raise InputError(f"--sha256 is given for {unknown[0]}, and what is fetched is {', '.join(names[:5])}")
    return [replace(remote, sha256=sums.get(remote.name, remote.sha256)) for remote in remotes]


def check_space(name: str, root: Path, remotes: Sequence[Remote], files: Path) -> None:
    """Refuse a disk without room for what is still to come and for what it unpacks to."""
    coming = sum(max(r.size - here(r, files), 0) for r in remotes)
    packed = {part for parts in archives(r.name for r in remotes).values() for part in parts}
    growing = UNPACKED * sum(r.size for r in remotes if r.name in packed)
    place = next(folder for folder in (root, *root.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < coming + growing:
        raise InputError(
            f"{root} has {free / 1e9:.1f} GB free, and {name} needs {(coming + growing) / 1e9:.1f} GB while "
            f"it is fetched ({coming / 1e9:.1f} to download, {growing / 1e9:.1f} unpacked, after which "
            "archives are removed); make room or give another ROOT"
        )


def unpacked(names: Sequence[str], files: Path, plan: Source) -> Path:
    """The folder with tables and images, after archives have been unpacked.

    Raises:
        InputError: if an archive is bad, or there is no such folder.
    """
    tree, packed = files, archives(names)
    if packed:
        tree = files.with_name("unpacked")
        try:
            for name, parts in packed.items():
                unpack(name, [files / part for part in parts], tree)
        except BaseException:
            shutil.rmtree(tree, ignore_errors=True)
            raise
    depths, (table, *_), last = ("", "*/", "*/*/"), plan.tables, plan.holds[-1]
    tables = [path for depth in depths for path in sorted(tree.glob(f"{depth}{table}"))]
    images = [path for depth in depths for path in sorted(tree.glob(f"{depth}{last}")) if path.is_dir()]
    if not tables or not images:
        raise InputError(
            f"what came ({', '.join(sorted(names)[:3])}) holds no "
            f"{f'folder {last}' if tables else table}; it lies in {tree}, and is not such a data set"
        )
    folder = tables[0].parent
    if images[0].parent != folder:
        images[0].rename(folder / last)
    return folder


def receipt(name: str, base: str, remotes: Sequence[Remote], found: Mapping[str, str]) -> dict[str, object]:
    """What came, from where, and how it was checked: FETCHED.json, by which two copies can be compared."""
    files = {
        r.name: {"bytes": r.size, "sha256": found[r.name], "checked": r.checked}
        for r in sorted(remotes, key=lambda remote: remote.name)
    }
    return {"dataset": name, "source": base, "licence": SOURCES[name].licence, "files": files}
