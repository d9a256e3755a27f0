"""Talking to a server that has files: what it says of them, and answers despite failing connections.

Standard library alone, but for the bar's way of printing.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import TypeVar
from urllib.error import HTTPError
from urllib.response import addinfourl

from tqdm import tqdm

from abra_wilds.errors import InputError

Answer = HTTPResponse | addinfourl
T = TypeVar("T")

BUSY = (408, 429, 500, 502, 503, 504)
NO_SUCH_RANGE = 416


class DownloadError(InputError):
    """A file did not come; the message is one sentence without what to do by hand."""


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        timeout: seconds without a byte after which a connection counts as lost.
        tries: failures in a row, without a byte in between, after which to give up.
        wait: seconds before the second try; doubles with each failure, to a minute at most.
    """

    timeout: float = 60.0
    tries: int = 6
    wait: float = 1.0


@dataclass(frozen=True)
class Remote:
    """What a server says of a file.

    Attributes:
        url: where it is.
        size: bytes.
        validator: a strong ETag, else the date of its last change, else None: by which a change is noticed.
        md5: hexadecimal, where the server sends it in x-goog-hash, as Google Cloud Storage does.
    """

    url: str
    size: int
    validator: str | None
    md5: str | None

    def differs(self, other: Remote) -> bool:
        """Whether another answer is about other bytes; what it leaves out is no difference."""
        said = None not in (self.validator, other.validator)
        return self.size != other.size or (said and self.validator != other.validator)


def probe(url: str, patience: Patience) -> Remote:
    """What a server says of a file, by asking for its first byte.

    Not by HEAD, which signed addresses behind a redirection may refuse.

    Raises:
        DownloadError: if it has no such file, cannot be reached, or does not say how large the file is.
    """

    def ask() -> Remote:
        with opened_url(url, {"Range": "bytes=0-0"}, patience) as answer:
            return described(url, answer)

    return patiently(url, ask, patience)


def read_text(url: str, patience: Patience) -> str:
    """A small text file.

    Raises:
        DownloadError: as `probe`.
    """

    def ask() -> str:
        with opened_url(url, {}, patience) as answer:
            return answer.read().decode("utf-8", "replace")

    return patiently(url, ask, patience)


def patiently(
    url: str, call: Callable[[], T], patience: Patience, progress: Callable[[], int] = lambda: 0
) -> T:
    """The result of a call that talks to a server; tried again, after a wait, when the connection fails."""
    failures, reached = 0, progress()
    while True:
        try:
            return call()
        except HTTPError as fault:
            if fault.code not in BUSY:
                raise DownloadError(f"{url} answers {fault.code} {fault.reason}") from fault
            reason = f"{fault.code} {fault.reason}"
        # What is an OSError: no address, a refused, lost or silent connection, a certificate.
        except (OSError, HTTPException) as fault:
            reason = str(getattr(fault, "reason", None) or fault) or type(fault).__name__
        now = progress()
        failures, reached = (1 if now > reached else failures + 1), max(now, reached)
        if failures >= patience.tries:
            raise DownloadError(f"{url} cannot be had, after {failures} tries in a row ({reason})")
        wait = min(patience.wait * 2 ** (failures - 1), 60.0)
        tqdm.write(f"{name_of(url)}: {reason}; trying again in {wait:g} s", file=sys.stderr)
        time.sleep(wait)


def opened_url(url: str, headers: dict[str, str], patience: Patience) -> Answer:
    """A server's answer, also that a file has no such range."""
    request = urllib.request.Request(url, headers={"User-Agent": "abra-wilds", **headers})
    try:
        answer: Answer = urllib.request.urlopen(request, timeout=patience.timeout)
    except HTTPError as fault:
        if fault.code != NO_SUCH_RANGE:
            raise
        return fault
    return answer


def described(url: str, answer: Answer) -> Remote:
    """What the headers of an answer say of the whole file."""
    headers = answer.headers
    ranged = re.search(r"/(\d+)$", headers.get("Content-Range", ""))
    size = ranged.group(1) if ranged else headers.get("Content-Length") if answer.status == 200 else None
    if size is None:
        raise DownloadError(f"{url} does not say how many bytes it has")
    etag = headers.get("ETag", "")
    validator = etag if etag.startswith('"') else headers.get("Last-Modified")
    return Remote(url, int(size), validator, _goog_md5(headers.get_all("x-goog-hash") or []))


def _goog_md5(values: list[str]) -> str | None:
    """The md5 among the checksums that Google Cloud Storage sends, hexadecimal.

    >>> _goog_md5(["crc32c=AAAAAA==,md5=1B2M2Y8AsgTpgAmY7PhCfg=="])
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    for item in ",".join(values).split(","):
        kind, _, value = item.strip().partition("=")
        if kind == "md5":
            try:
                return base64.b64decode(value, validate=True).hex()
            except binascii.Error:
                return None
    return None


def first_byte(answer: Answer) -> int:
    """Where in the file the body of an answer begins; -1 if it is nothing of the file."""
    if answer.status == 206:
        begins = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        return int(begins.group(1)) if begins else -1
    return 0 if answer.status == 200 else -1


def name_of(url: str) -> str:
    """The last part of an address."""
    return url.rsplit("/", 1)[-1]
