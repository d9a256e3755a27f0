"""Where RxRx1-WILDS and six-channel RxRx1 are published, of which files, and as what they lie in ROOT.

RxRx1-WILDS is the mirror by one of WILDS' authors, huggingface.co/datasets/pangwei/wilds-rxrx1. Its card says
that it holds archive files to be unpacked into WILDS' folder, and their sha256 in SHA256SUMS. The names of
the archives, and whether their members lie in a folder of their own, are found at run time: an archive,
archives in parts, or plain files; and metadata.csv at the top or up to two folders below.

RxRx1 with six channels is what its publisher, Recursion, links on rxrx.ai/rxrx1. No sha256 is published; size
and, where the server sends it, md5 are compared, and the sha256 of what came is kept.

The wilds package gives the archive of the first 7.4 GB, Recursion's rxrx-datasets README gives the second 47.
This code has met neither server, only those of its tests.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from abra_wilds.config.data import MARKER
from abra_wilds.errors import InputError
from abra_wilds.fetch.unpack import archives, inside
from abra_wilds.fetch.web import DownloadError, Patience, read_text

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Source:
    """Where a data set is published, and as what it shall lie in ROOT.

    Attributes:
        base: the address below which its files are.
        files: their names; none: those that SHA256SUMS lists.
        folders: what the data set's folder may be called; the first is the one that is made.
        holds: what is in that folder if it is complete.
        by_hand: what to download without this command.
    """

    base: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    holds: tuple[str, ...]
    by_hand: str


SOURCES = {
    "rxrx1": Source(
        base="https://huggingface.co/datasets/pangwei/wilds-rxrx1/resolve/main",
        files=(),
        folders=("rxrx1_v1.0",),
        holds=("metadata.csv", "RELEASE_v1.0.txt", "images"),
        by_hand=f"the archive files and {SUMS} of https://huggingface.co/datasets/pangwei/wilds-rxrx1 "
        f"(check them with 'sha256sum -c {SUMS}')",
    ),
    "rxrx1_6ch": Source(
        base="https://storage.googleapis.com/rxrx/rxrx1",
        files=("rxrx1-metadata.zip", "rxrx1-images.zip"),
        folders=("rxrx1", "rxrx1_6ch_v1.0"),
        holds=("metadata.csv", "images"),
        by_hand="rxrx1-metadata.zip and rxrx1-images.zip, linked on https://www.rxrx.ai/rxrx1",
    ),
}


def is_there(plan: Source, root: Path) -> bool:
    """Whether the data set is there and complete.

    Raises:
        InputError: if something else is where it would be.
    """
    for folder in (root / name for name in plan.folders):
        if (folder / MARKER).exists():
            raise InputError(f"{folder} is a simulated screen; move it away or give another ROOT")
        if all((folder / entry).exists() for entry in plan.holds):
            return True
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            lacking = ", ".join(entry for entry in plan.holds if not (folder / entry).exists())
            raise InputError(
                f"{folder} exists without {lacking}, so it is not what would be fetched; move it away or "
                "give another ROOT"
            )
    return False


def checked_address(source: str) -> str:
    """An address that names can be put behind.

    Raises:
        InputError: if it is not one of http.
    """
    if urllib.parse.urlsplit(source).scheme not in ("http", "https"):
        raise InputError(
            f"--source {source} is not an address; give one that begins with http:// or https://"
        )
    return source.rstrip("/")


def listed(plan: Source, base: str, sums: Mapping[str, str], patience: Patience) -> dict[str, str | None]:
    """{name: its sha256, or None where none is known} of the files of which a data set consists.

    Raises:
        InputError: if SHA256SUMS cannot be used, or `sums` has the checksum of another file.
    """
    known = dict.fromkeys(plan.files) if plan.files else published_sums(base, patience)
    if unknown := sorted(set(sums) - set(known)):
        raise InputError(
            f"--sha256 is given for {unknown[0]}, and what is fetched is {', '.join(sorted(known)[:5])}"
        )
    return {name: sums.get(name, checksum) for name, checksum in known.items()}


def published_sums(base: str, patience: Patience) -> dict[str, str | None]:
    """What SHA256SUMS lists; where it names archives, they alone: what else it names describes them.

    Raises:
        InputError: if it lists no data set, or names a place outside the folder.
    """
    text = read_text(f"{base}/{SUMS}", patience)
    lines = re.findall(r"^([0-9a-fA-F]{64})[ \t]+\*?(.+?)[ \t\r]*$", text, re.MULTILINE)
    found = {str(inside(name, SUMS)): checksum.lower() for checksum, name in lines}
    packed = [part for parts in archives(found).values() for part in parts]
    if not packed and not any(name.endswith("metadata.csv") for name in found):
        raise DownloadError(f"{base}/{SUMS} lists neither an archive nor a metadata.csv")
    return {name: found[name] for name in packed or found}


def manual(plan: Source, root: Path) -> str:
    """How to get the data without this command, as the end of a sentence."""
    *first, last = plan.holds
    return (
        f"run the command again, give a mirror by --source, or by hand: download {plan.by_hand}, unpack "
        f"them so that {root / plan.folders[0]} holds {', '.join(first)} and {last}/, and run 'abra-wilds "
        f"validate {root}'"
    )
