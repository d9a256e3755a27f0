"""`abra-wilds fetch`: RxRx1-WILDS or six-channel RxRx1 from where they are published, whole or not at all.

Everything comes into a hidden folder beside the data set's, is checked there, unpacked there, and becomes the
data set by one rename at the end. What a killed process leaves is that hidden folder, from which the next
call goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from abra_wilds.errors import InputError
from abra_wilds.fetch.download import Transfer
from abra_wilds.fetch.sources import SOURCES, checked_address, is_there, listed, manual
from abra_wilds.fetch.unpack import archives, unpack
from abra_wilds.fetch.web import DownloadError, Patience, probe
from abra_wilds.results.files import write_text

FETCHED = "FETCHED.json"
LICENCE = "CC BY-NC-SA 4.0, Recursion (https://creativecommons.org/licenses/by-nc-sa/4.0/)"
# PNGs do not compress, so archives of them unpack to their own size; the rest is for half-filled disk blocks.
UNPACKED = 1.1


def fetch(
    name: str,
    root: Path,
    source: str | None = None,
    sums: Mapping[str, str] | None = None,
    patience: Patience | None = None,
) -> Path | None:
    """Fetch a data set into its folder in `root`.

    Args:
        name: a key of SOURCES.
        root: the folder above it; made if absent.
        source: another address below which the same files are.
        sums: sha256 of files by name, beside or instead of those that SHA256SUMS has.
        patience: how long to try.

    Returns:
        The data set's folder, or None if it was there already and nothing was done.

    Raises:
        InputError: if it cannot be fetched, is not what was expected, or something else is in its place.
    """
    plan, patience = SOURCES[name], patience or Patience()
    target, work = root / plan.folders[0], root / f".{plan.folders[0]}.fetch"
    if is_there(plan, root):
        shutil.rmtree(work, ignore_errors=True)
        return None
    base = checked_address(source or plan.base)
    shutil.rmtree(work / "unpacked", ignore_errors=True)
    try:
        transfers = connect(base, listed(plan, base, sums or {}, patience), work, patience)
        check_space(name, root, transfers)
        total, have = (
            sum(n) for n in zip(*((t.remote.size, t.have) for t in transfers.values()), strict=True)
        )
        with tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=f"fetching {name}") as bar:
            for transfer in transfers.values():
                transfer.run(bar, patience)
    except DownloadError as fault:
        raise InputError(f"{fault}; {manual(plan, root)}") from fault
    folder = unpacked(transfers, work)
    for release in (entry for entry in plan.holds if entry.startswith("RELEASE")):
        (folder / release).touch()
    write_text(folder / FETCHED, json.dumps(receipt(name, base, transfers), indent=1) + "\n")
    os.replace(folder, target)
    shutil.rmtree(work, ignore_errors=True)
    return target


def connect(
    base: str, known: Mapping[str, str | None], work: Path, patience: Patience
) -> dict[str, Transfer]:
    """Ask the server for the size of every file, and see how much of them is here from before."""
    found = {}
    for name in tqdm(known, desc="asking for sizes", leave=False, disable=len(known) < 100):
        remote = probe(f"{base}/{urllib.parse.quote(name)}", patience)
        note = work / "notes" / f"{name}.json"
        found[name] = Transfer(remote, work / "files" / name, note, known[name])
    return found


def check_space(name: str, root: Path, transfers: Mapping[str, Transfer]) -> None:
    """Refuse a disk without room for what is still to come and for what it unpacks to."""
    coming = sum(t.remote.size - t.have for t in transfers.values())
    packed = {part for parts in archives(transfers).values() for part in parts}
    growing = UNPACKED * sum(t.remote.size for part, t in transfers.items() if part in packed)
    place = next(folder for folder in (root, *root.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < coming + growing:
        raise InputError(
            f"{root} has {free / 1e9:.1f} GB free, and {name} needs {(coming + growing) / 1e9:.1f} GB while "
            f"it is fetched ({coming / 1e9:.1f} to download, {growing / 1e9:.1f} unpacked, after which "
            "archives are removed); make room or give another ROOT"
        )


def unpacked(transfers: Mapping[str, Transfer], work: Path) -> Path:
    """The folder with metadata.csv and images, after archives have been unpacked.

    Raises:
        InputError: if an archive is bad, or there is no such folder.
    """
    tree, packed = work / "files", archives(transfers)
    if packed:
        tree = work / "unpacked"
        try:
            for name, parts in packed.items():
                unpack(name, [transfers[part].path for part in parts], tree)
        except BaseException:
            shutil.rmtree(tree, ignore_errors=True)
            raise
    depths = ("", "*/", "*/*/")
    tables = [path for depth in depths for path in sorted(tree.glob(f"{depth}metadata.csv"))]
    images = [path for depth in depths for path in sorted(tree.glob(f"{depth}images")) if path.is_dir()]
    if not tables or not images:
        raise InputError(
            f"what came ({', '.join(sorted(transfers)[:3])}) holds no "
            f"{'folder images' if tables else 'metadata.csv'}; it lies in {tree}, and is not such a data set"
        )
    folder = tables[0].parent
    if images[0].parent != folder:
        images[0].rename(folder / "images")
    return folder


def receipt(name: str, base: str, transfers: Mapping[str, Transfer]) -> dict[str, object]:
    """What came, from where, and how it was checked: FETCHED.json, by which two copies can be compared."""
    files = {
        file: {"bytes": t.remote.size, "sha256": t.sha256, "checked": t.checked}
        for file, t in sorted(transfers.items())
    }
    return {"dataset": name, "source": base, "licence": LICENCE, "files": files}
