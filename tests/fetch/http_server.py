"""A server on the loopback that can drop connections, ignore ranges and send wrong bytes.

Its files are at the top, to which it redirects from where the hub has files, whose list it also sends.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPO = "pangwei/wilds-rxrx1"
TEXTS = (".md", ".csv", ".txt")  # files for which the hub gives no sha256


@dataclass
class Site:
    """What a server has and how it behaves; tests change it while it runs.

    Attributes:
        files: bytes by path, without the leading slash.
        ranges: whether Range is understood.
        drops: for each body of a file longer than a byte, in order, after how many bytes the connection ends.
        headers: more of them, by path.
        busy: how many requests are answered by 503 first.
        stalls: after how many bytes of a longer body nothing more comes while this is set; 0 for never.
        asked: the path of every request.
        sent: (path, first byte, number of bytes) of every body of a file.
    """

    files: dict[str, bytes]
    ranges: bool = True
    drops: list[int] = field(default_factory=list)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    busy: int = 0
    stalls: int = 0
    asked: list[str] = field(default_factory=list)
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    url: str = ""

    def etag(self, path: str) -> str:
        return '"' + hashlib.md5(self.files[path]).hexdigest() + '"'

    def bodies(self, path: str) -> list[tuple[int, int]]:
        """(first byte, number of bytes) of the bodies sent of a file."""
        return [(start, n) for name, start, n in self.sent if name == path]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        path = urllib.parse.unquote(self.path.lstrip("/"))
        site.asked.append(path)
        if site.busy:
            site.busy -= 1
            self.send_error(503)
            return
        if path.startswith(f"api/datasets/{REPO}/tree/main?"):
            self.send_tree(site)
            return
        if path.startswith(f"datasets/{REPO}/resolve/main/"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("/resolve/main")[2])
            self.end_headers()
            return
        if path not in site.files:
            self.send_error(404)
            return
        body = site.files[path]
        fresh = self.headers["If-Range"] in (None, site.etag(path))
        ranged = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "") if site.ranges and fresh else None
        start, stop = int(ranged[1]) if ranged else 0, len(body)
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{stop}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", site.etag(path))
        for name, value in site.headers.get(path, {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.send_body(site, path, start, body[start:stop])

    def send_tree(self, site: Site) -> None:
        """The list of files as the hub has it."""
        tree: list[dict[str, object]] = [{"type": "directory", "path": "data", "oid": "0"}]
        for name, body in site.files.items():
            lfs = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
            large = {} if name.endswith(TEXTS) else {"lfs": lfs}
            oid = site.etag(name).strip('"')
            tree.append({"type": "file", "path": name, "oid": oid, "size": len(body), **large})
        body = json.dumps(tree).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def send_body(self, site: Site, path: str, start: int, body: bytes) -> None:
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
