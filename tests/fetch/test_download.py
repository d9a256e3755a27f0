"""One file over HTTP: only missing bytes are asked for, and only right ones are kept."""

from __future__ import annotations

import base64
import hashlib
import io
import socket
from contextlib import nullcontext

import pytest
from tqdm import tqdm

from abra_wilds.fetch import download
from abra_wilds.fetch.download import DownloadError, check, here, probe, receive, session
from tests.fetch.http_server import serving

BODY = bytes(i * i % 251 for i in range(300_000))
SUM = hashlib.sha256(BODY).hexdigest()
K64 = 1 << 16  # what comes at a time


@pytest.fixture
def site(quick):
    with serving({"x.bin": BODY, "a b/empty": b""}) as site:
        yield site


@pytest.fixture
def get(site, tmp_path):
    """Fetches a file as a new process would; returns what the server says of it, and the sha256."""

    def get(sha256=SUM, name="x.bin", remote=None):
        with session() as talk, tqdm(file=io.StringIO()) as bar, tqdm(file=io.StringIO()) as checking:
            remote = remote or probe(talk, f"{site.url}/{name.replace(' ', '%20')}", name, sha256)
            bar.update(here(remote, tmp_path))
            receive(talk, remote, tmp_path, bar)
            found = check(remote, tmp_path, checking)
        assert bar.n == checking.n == remote.size
        return remote, found

    get.path = tmp_path / "x.bin"
    return get


def test_a_file_comes_whole_and_is_checked(site, get):
    remote, found = get()
    assert get.path.read_bytes() == BODY and site.bodies("x.bin") == [(0, len(BODY))]
    assert (found, remote.checked) == (SUM, "size, sha256")
    get()
    assert len(site.bodies("x.bin")) == 1


def test_a_broken_connection_is_resumed_at_the_missing_byte(site, get, capsys):
    site.drops = [2 * K64, K64]
    get()
    assert get.path.read_bytes() == BODY
    assert site.bodies("x.bin") == [(0, 2 * K64), (2 * K64, K64), (3 * K64, len(BODY) - 3 * K64)]
    assert capsys.readouterr().err.count("trying again") == 2


def test_a_server_without_ranges_starts_anew(site, get):
    site.ranges, site.drops = False, [K64]
    get()
    assert get.path.read_bytes() == BODY and site.bodies("x.bin") == [(0, K64), (0, len(BODY))]


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (BODY[::-1], None),
        (BODY + b"more", "came with 300,004 bytes instead of 300,000, and was removed again"),
        (b"less", "broke off, after 4 of 300,000 bytes"),
    ],
    ids=("as long", "longer", "shorter"),
)
def test_a_file_that_changes_while_it_comes_is_never_joined(site, get, new, said):
    site.drops = [K64, 0]
    with session() as talk:
        old = probe(talk, f"{site.url}/x.bin", "x.bin")
    with pytest.raises(DownloadError):
        get(remote=old)
    site.files["x.bin"], site.drops, site.sent = new, [], []
    with pytest.raises(DownloadError, match=said) if said else nullcontext():
        get(remote=old)
    assert get.path.exists() == (said is None or "removed" not in said)
    assert not get.path.exists() or get.path.read_bytes() == new
    assert {start for start, _ in site.bodies("x.bin")} == {0}


def test_the_md5_of_a_google_server_is_compared(site, get):
    md5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
    site.headers["x.bin"] = {"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"}
    assert get(sha256=None)[0].checked == "size, md5 of the server"
    site.files["x.bin"] = BODY[:-1] + b"?"
    get.path.unlink()
    with pytest.raises(DownloadError, match="as md5 instead of"):
        get(sha256=None)
    assert not get.path.exists()


def test_an_empty_file_and_a_name_with_a_blank_come_too(site, get):
    assert get(None, "a b/empty")[1] == hashlib.sha256(b"").hexdigest()
    assert (get.path.parent / "a b" / "empty").read_bytes() == b""


def test_a_busy_server_is_asked_again_and_given_up_at_last(site, get):
    site.busy = 2
    get()
    assert get.path.read_bytes() == BODY
    site.busy = 99
    with pytest.raises(DownloadError, match="too many 503"):
        get()


def test_a_server_that_is_silent_or_not_there_is_named(nobody, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, session() as talk:
        with pytest.raises(DownloadError, match="timed out"):
            probe(talk, f"http://127.0.0.1:{silent.getsockname()[1]}/x.bin", "x.bin")
        with pytest.raises(DownloadError, match=r"x\.bin cannot be had \(.*refused"):
            probe(talk, f"{nobody}/x.bin", "x.bin")
