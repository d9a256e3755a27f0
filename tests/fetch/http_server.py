"""A server on the loopback that can drop connections, ignore ranges and send wrong bytes."""

from __future__ import annotations

import hashlib
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What a server has and how it behaves; tests change it while it runs.

    Attributes:
        files: bytes by path, without the leading slash.
        ranges: whether Range is understood.
        etags: whether an ETag is sent.
        drops: for each body longer than a byte, in order, after how many bytes the connection ends; used up.
        headers: more of them, by path.
        busy: how many requests are answered by 503 first.
        stalls: after how many bytes of a longer body nothing more comes while this is set; 0 for never.
        asked: (path, Range) of every request.
        sent: (path, first byte, number of bytes) of every body longer than a byte.
    """

    files: dict[str, bytes]
    ranges: bool = True
    etags: bool = True
    drops: list[int] = field(default_factory=list)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    busy: int = 0
    stalls: int = 0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    url: str = ""

    def etag(self, path: str) -> str:
        return '"' + hashlib.md5(self.files[path]).hexdigest() + '"'

    def bodies(self, path: str) -> list[tuple[int, int]]:
        """(first byte, number of bytes) of the bodies sent of a file, without probes."""
        return [(start, n) for name, start, n in self.sent if name == path]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        path, wanted = urllib.parse.unquote(self.path.lstrip("/")), self.headers["Range"]
        site.asked.append((path, wanted))
        if site.busy:
            site.busy -= 1
            self.send_error(503)
            return
        if path not in site.files:
            self.send_error(404)
            return
        body = site.files[path]
        start, stop = 0, len(body)
        fresh = self.headers["If-Range"] in (None, site.etag(path))
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "") if site.ranges and fresh else None
        if ranged:
            start, stop = int(ranged[1]), min(int(ranged[2] or stop) + bool(ranged[2]), stop)
        if ranged and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
        else:
            self.send_response(206 if ranged else 200)
            if ranged:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")
            self.send_header("Content-Length", str(stop - start))
        if site.etags:
            self.send_header("ETag", site.etag(path))
        # An answer to If-Range leaves out what the client was told before (RFC 9110, section 15.3.7).
        told = ranged and self.headers["If-Range"]
        for name, value in ({} if told else site.headers.get(path, {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.send_body(site, path, start, body[start:stop])

    def send_body(self, site: Site, path: str, start: int, body: bytes) -> None:
        if self.headers["Range"] == "bytes=0-0":
            with suppress(OSError):
                self.wfile.write(body)
            return
        if site.drops and len(body) > 1:
            body = body[: site.drops.pop(0)]
        site.sent.append((path, start, len(body)))
        if 0 < site.stalls < len(body):
            self.wfile.write(body[: site.stalls])
            while site.stalls:
                time.sleep(0.01)
            return
        self.wfile.write(body)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Site]:
    """A server of these files, as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(files, url=f"http://127.0.0.1:{server.server_port}")
    server.site = site  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield site
    finally:
        site.stalls = 0
        server.shutdown()
        server.server_close()
