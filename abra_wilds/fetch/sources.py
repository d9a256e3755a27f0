"""Where WILDS' image sets and six-channel RxRx1 are published, of which files, and as what they lie in ROOT.

RxRx1-WILDS is the mirror by one of WILDS' authors, the data set pangwei/wilds-rxrx1 of the Hugging Face hub,
which lists files with sizes and, for large ones, sha256. Its card says that it holds archive files to be
unpacked into WILDS' folder, and their sha256 in SHA256SUMS, which is the list of files at other addresses.
The names of the archives, and whether their members lie in a folder of their own, are found at run time: an
archive, archives in parts, or plain files; and metadata.csv at the top or up to two folders below.
Camelyon17, iWildCam and FMoW are looked for under names of the same form, which nobody has confirmed.

RxRx1 with six channels is what its publisher, Recursion, links on rxrx.ai/rxrx1. No sha256 is published; size
and, where the server sends it, md5 are compared, and the sha256 of what came is kept.

The wilds package gives the archive of RxRx1-WILDS 7.4 GB, of Camelyon17 10.7, of iWildCam 12 and of FMoW 54,
Recursion's rxrx-datasets README gives six channels 47. This code has met none of the servers, only those of
its tests.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from abra_wilds.config.data import MARKER
from abra_wilds.config.datasets import OF_RXRX1
from abra_wilds.errors import InputError
from abra_wilds.fetch.download import DownloadError, Remote, opened, probe
from abra_wilds.fetch.unpack import archives, inside

SUMS = "SHA256SUMS"
HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Source:
    """Where a data set is published, and as what it shall lie in ROOT.

    Attributes:
        base: the address below which its files are; of the hub, where it is a data set of the hub.
        repo: its name on the hub; None if it is not there.
        files: their names; none: those that the hub or SHA256SUMS lists.
        folders: what the data set's folder may be called; the first is the one that is made.
        holds: what is in that folder if it is complete: tables first, the folder of images last.
        by_hand: what to download without this command.
        licence: under which it is published.
    """

    base: str
    repo: str | None
    files: tuple[str, ...]
    folders: tuple[str, ...]
    holds: tuple[str, ...]
    by_hand: str
    licence: str = "CC BY-NC-SA 4.0, Recursion (https://creativecommons.org/licenses/by-nc-sa/4.0/)"

    @property
    def tables(self) -> list[str]:
        """The tables that it has."""
        return [name for name in self.holds if name.endswith(".csv")]


def of_wilds(name: str, version: str, holds: tuple[str, ...], **more: str) -> Source:
    """A data set of WILDS on the mirror."""
    repo, release = f"pangwei/wilds-{name}", f"RELEASE_v{version}.txt"
    return Source(
        base=HUB,
        repo=repo,
        files=(),
        folders=(f"{name}_v{version}",),
        holds=(*holds[:-1], release, holds[-1]),
        by_hand=f"the archive files and {SUMS} of {HUB}/datasets/{repo} (check them with 'sha256sum -c "
        f"{SUMS}')",
        **more,
    )


SOURCES = {
    "rxrx1": of_wilds("rxrx1", "1.0", ("metadata.csv", "images")),
    "rxrx1_6ch": Source(
        base="https://storage.googleapis.com/rxrx/rxrx1",
        repo=None,
        files=("rxrx1-metadata.zip", "rxrx1-images.zip"),
        folders=("rxrx1", "rxrx1_6ch_v1.0"),
        holds=("metadata.csv", "images"),
        by_hand="rxrx1-metadata.zip and rxrx1-images.zip, linked on https://www.rxrx.ai/rxrx1",
    ),
    "camelyon17": of_wilds(
        *("camelyon17", "1.0", ("metadata.csv", "patches")),
        licence="CC0 (https://creativecommons.org/publicdomain/zero/1.0/)",
    ),
    "iwildcam": of_wilds(
        *("iwildcam", "2.0", ("metadata.csv", "train")),
        licence="Community Data License Agreement, Permissive, 1.0 (https://cdla.io/permissive-1-0/)",
    ),
    "fmow": of_wilds(
        *("fmow", "1.1", ("rgb_metadata.csv", "country_code_mapping.csv", "images")),
        licence="FMoW Challenge Public License (https://github.com/fMoW/dataset/blob/master/LICENSE)",
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


def listed(plan: Source, source: str | None, talk: requests.Session) -> tuple[str, list[Remote]]:
    """The address below which the files of a data set are, and the files; archives alone, if there are any.

    Args:
        plan: the data set.
        source: another address than its publisher's, or None.
        talk: from `session`.

    Raises:
        InputError: if the address is none, there is no list of files, or it names a place outside the folder.
    """
    if source is not None and urllib.parse.urlsplit(source).scheme not in ("http", "https"):
        raise InputError(
            f"--source {source} is not an address; give one that begins with http:// or https://"
        )
    if source is None and plan.repo:
        return on_the_hub(plan.repo, os.environ.get("HF_ENDPOINT", plan.base).rstrip("/"))
    base = (source or plan.base).rstrip("/")
    names = dict.fromkeys(plan.files) if plan.files else published_sums(talk, base)
    bar = tqdm(names.items(), desc="asking for sizes", leave=False, disable=len(names) < 100)
    return base, [probe(talk, address(base, name), name, sha256) for name, sha256 in bar]


def on_the_hub(repo: str, endpoint: str) -> tuple[str, list[Remote]]:
    """The address and the files of a data set of the hub.

    Raises:
        InputError: if huggingface_hub is missing, the hub cannot be reached, or lists no data set.
    """
    try:
        from huggingface_hub.hf_api import HfApi, RepoFile
    except ImportError as fault:
        raise InputError(
            "fetch needs huggingface_hub, which is not installed; run `pip install huggingface_hub`"
        ) from fault
    page = f"{endpoint}/datasets/{repo}"
    try:
        entries = list(HfApi(endpoint=endpoint).list_repo_tree(repo, recursive=True, repo_type="dataset"))
    # What it raises where the hub cannot be reached belongs to the package it speaks HTTP by, and changes.
    except Exception as fault:
        reason = next(iter(str(fault).splitlines()), type(fault).__name__)
        raise DownloadError(f"the list of files of {page} cannot be had ({reason})") from fault
    files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    base = f"{page}/resolve/main"
    return base, [
        Remote(name, address(base, name), file.size, file.lfs.sha256)
        if (file := files[name]).lfs
        # The hub's ETag of what is not large.
        else Remote(name, address(base, name), file.size, validator=f'"{file.blob_id}"')
        for name in data_files(files, page)
    ]


def address(base: str, name: str) -> str:
    """Where a file is."""
    return f"{base}/{urllib.parse.quote(name)}"


def published_sums(talk: requests.Session, base: str) -> dict[str, str]:
    """{name: sha256} of what SHA256SUMS lists.

    Raises:
        InputError: if it cannot be had, or lists no data set.
    """
    with opened(talk, f"{base}/{SUMS}") as answer:
        text = answer.content.decode("utf-8", "replace")
    lines = re.findall(r"^([0-9a-fA-F]{64})[ \t]+\*?(.+?)[ \t\r]*$", text, re.MULTILINE)
    found = {inside(name, SUMS): checksum.lower() for checksum, name in lines}
    return {name: found[name] for name in data_files(found, f"{base}/{SUMS}")}


def data_files(names: Iterable[str], source: str) -> list[str]:
    """The archives among names of files; where there are none, all.

    Raises:
        InputError: if they are no data set, or one is a place outside the folder.
    """
    kept = [inside(name, source) for name in names if not name.startswith(".git")]
    packed = [part for parts in archives(kept).values() for part in parts]
    if not packed and not any(name.endswith("metadata.csv") for name in kept):
        raise DownloadError(f"{source} lists neither an archive nor a metadata.csv")
    return packed or kept


def manual(plan: Source, root: Path) -> str:
    """How to get the data without this command, as the end of a sentence."""
    *first, last = plan.holds
    checked = f", and run 'abra-wilds validate {root}'" if plan in map(SOURCES.get, OF_RXRX1) else ""
    return (
        f"run the command again, give a mirror by --source, or by hand: download {plan.by_hand}, unpack "
        f"them so that {root / plan.folders[0]} holds {', '.join(first)} and {last}/{checked}"
    )
