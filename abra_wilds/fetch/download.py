"""Files over HTTP, by requests: resumed where they broke off, and checked when they are whole.

A file grows under its name, in a folder that belongs to one state of its server (`fetch.work_folder`), so its
length says how much of it is here, and the next call asks for the missing bytes only. huggingface_hub keeps
nothing of a broken file for the next call, so the files of the hub come this way too.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from abra_wilds.errors import InputError
from abra_wilds.results.files import refusals_named

TIMEOUT = 60.0  # seconds without a byte after which a connection counts as lost
TRIES, WAIT = 6, 0.5  # after which a server is given up; seconds before the second try, doubled for each
BUSY = (408, 429, 500, 502, 503, 504)


class DownloadError(InputError):
    """A file did not come; the message is one sentence without what to do by hand."""


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        name: its path below the address of the data set.
        url: where it is.
        size: bytes.
        sha256: hexadecimal, None where none is known.
        md5: hexadecimal, where the server sends it in x-goog-hash, as Google Cloud Storage does.
        validator: a strong ETag, else the date of its last change, else None: by which a change is noticed.
    """

    name: str
    url: str
    size: int
    sha256: str | None = None
    md5: str | None = None
    validator: str | None = None

    @property
    def checked(self) -> str:
        """By what its bytes are found to be right."""
        kinds = {"sha256": self.sha256, "md5 of the server": self.md5}
        return ", ".join(["size", *(kind for kind, value in kinds.items() if value)])


def session() -> requests.Session:
    """What talks to servers; it tries again where one is busy or cannot be reached."""
    talk = requests.Session()
    # A body that is compressed on its way has another length than the file.
    talk.headers.update({"User-Agent": "abra-wilds", "Accept-Encoding": "identity"})
    for scheme in ("http://", "https://"):
        retry = Retry(TRIES, backoff_factor=WAIT, status_forcelist=BUSY)
        talk.mount(scheme, HTTPAdapter(max_retries=retry))
    return talk


@contextmanager
def opened(
    talk: requests.Session, url: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> Iterator[requests.Response]:
    """A server's answer, to be read inside the block.

    Raises:
        DownloadError: if there is none, it is a refusal, or it breaks off while it is read.
    """
    try:
        # requests takes no redirection of HEAD by itself.
        with talk.request(
            method, url, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=True
        ) as answer:
            if not answer.ok:
                raise DownloadError(f"{url} answers {answer.status_code} {answer.reason}")
            yield answer
    except requests.RequestException as fault:
        cause: BaseException = fault
        while cause.__context__ is not None:
            cause = cause.__context__
        raise DownloadError(f"{url} cannot be had ({cause})") from fault


def probe(talk: requests.Session, url: str, name: str, sha256: str | None = None) -> Remote:
    """What a server says of a file; `name` and `sha256` are those of `Remote`.

    Raises:
        DownloadError: if it cannot be had, or the server does not say how large it is.
    """
    with opened(talk, url, method="HEAD") as answer:
        said = answer.headers
    if "Content-Length" not in said:
        raise DownloadError(f"{url} does not say how many bytes it has")
    etag = said.get("ETag", "")
    validator = etag if etag.startswith('"') else said.get("Last-Modified")
    goog = re.search(r"md5=([\w+/]{22}==)", said.get("x-goog-hash", ""))
    md5 = base64.b64decode(goog[1]).hex() if goog else None
    return Remote(name, url, int(said["Content-Length"]), sha256, md5, validator)


def here(remote: Remote, folder: Path) -> int:
    """How many bytes of a file are in a folder."""
    path = folder / remote.name
    return path.stat().st_size if path.is_file() else 0


def receive(talk: requests.Session, remote: Remote, folder: Path, bar: tqdm[Any]) -> None:
    """Fetch what a folder lacks of a file.

    Args:
        talk: from `session`.
        remote: the file.
        folder: where it grows, under its name.
        bar: of bytes, in which those that are here are already counted; moved on as more come.

    Raises:
        DownloadError: if a try brings no byte more.
    """
    path = folder / remote.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    while (have := here(remote, folder)) < remote.size:
        fault = None
        try:
            _append(talk, remote, path, have, bar)
        except DownloadError as broken:
            fault = broken
        now = here(remote, folder)
        said = f"{fault or f'{remote.url} broke off'}, after {now:,} of {remote.size:,} bytes"
        if now <= have:
            raise DownloadError(said) from fault
        if now < remote.size:
            tqdm.write(f"{said}; trying again", file=sys.stderr)


def _append(talk: requests.Session, remote: Remote, path: Path, have: int, bar: tqdm[Any]) -> None:
    """One try to get the bytes after the first `have`; all of them where the server sends all."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and remote.validator:
        headers["If-Range"] = remote.validator
    with opened(talk, remote.url, headers) as answer:
        rest = have and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        bar.update(0 if rest else -have)
        with refusals_named(path), path.open("ab" if rest else "wb") as file:
            for block in answer.iter_content(1 << 16):
                bar.update(file.write(block))


def check(remote: Remote, folder: Path, bar: tqdm[Any]) -> str:
    """Compare a file with what is known of it; a wrong one is removed.

    Args:
        remote: the file.
        folder: where it is.
        bar: of bytes, moved on as they are read.

    Returns:
        Its sha256.

    Raises:
        DownloadError: if it is wrong.
    """
    path = folder / remote.name
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            md5.update(block)
            bar.update(len(block))
    for kind, found, wanted in (
        ("bytes", f"{here(remote, folder):,}", f"{remote.size:,}"),
        ("as sha256", sha256.hexdigest(), remote.sha256),
        ("as md5", md5.hexdigest(), remote.md5),
    ):
        if wanted not in (None, found):
            path.unlink()
            raise DownloadError(
                f"{remote.url} came with {found} {kind} instead of {wanted}, and was removed again"
            )
    return sha256.hexdigest()
