"""A Hub on the loopback: repositories of small files, by the requests that huggingface_hub makes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OID = "a" * 40


@dataclass
class Hub:
    """What the server holds.

    Attributes:
        repositories: name -> files.
        private: names of those that were made private.
        asked: method and path of every request.
        tokens: what came as authorization.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def answer(self, content: Any, code: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        hub, body = self.hub, self.body()
        hub.asked.append(f"POST {self.path}")
        hub.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            hub.repositories.setdefault(name, {})
            secret = asked.get("private") or asked.get("visibility") == "private"
            hub.private |= {name} if secret else set()
            self.answer({"url": f"{hub.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [f["path"] for f in json.loads(body)["files"]]
            self.answer(
                {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]}
            )
        elif found := re.match(r"/api/models/(.+)/commit/main", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    hub.repositories[found[1]][line["value"]["path"]] = content
            self.answer({"commitUrl": f"{hub.url}/{found[1]}/commit/{OID}", "commitOid": OID})
        else:
            self.answer({"error": "no such request"}, 404)

    def do_GET(self) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        if found := re.match(r"/api/models/([^/]+/[^/]+)(/revision/.+)?$", path):
            files = hub.repositories.get(found[1])
            if files is None:
                self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            else:
                siblings = [{"rfilename": name} for name in files]
                self.answer(
                    {"id": found[1], "modelId": found[1], "sha": OID, "siblings": siblings, "tags": []}
                )
        elif found := re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)$", path):
            content = hub.repositories.get(found[1], {}).get(found[2])
            if content is None:
                self.answer(b"", 404, X_Error_Code="EntryNotFound")
            else:
                etag = hashlib.sha1(content).hexdigest()
                self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=OID)
        elif found := re.match(r"/api/models/([^/]+/[^/]+)/tree/", path):
            files = hub.repositories[found[1]]
            entries = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in files.items()
            ]
            self.answer(entries)
        else:
            self.answer({"error": "no such page"}, 404)

    do_HEAD = do_GET


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub at `url` until the block ends."""
    hub = Hub()
    handler = type("Bound", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
