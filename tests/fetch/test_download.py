"""One file over HTTP: only missing bytes are asked for, and only right ones are put in place."""

from __future__ import annotations

import base64
import hashlib
import io
import socket

import pytest
from tqdm import tqdm

from abra_wilds.errors import InputError
from abra_wilds.fetch.download import Transfer
from abra_wilds.fetch.web import DownloadError, Patience, probe, read_text
from tests.fetch.http_server import serving

QUICK = Patience(timeout=60.0, tries=3, wait=0.01)
BODY = bytes(i * i % 251 for i in range(300_000))
SUM = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving({"x.bin": BODY, "a b/empty": b""}) as site:
        yield site


@pytest.fixture
def get(site, tmp_path):
    """Fetches x.bin as a new process would; returns the transfer."""

    def get(sha256=SUM, patience=QUICK, name="x.bin"):
        remote = probe(f"{site.url}/{name}", patience)
        transfer = Transfer(remote, tmp_path / "got" / "x.bin", tmp_path / "notes" / "x.json", sha256)
        with tqdm(total=remote.size, initial=transfer.have, file=io.StringIO()) as bar:
            try:
                transfer.run(bar, patience)
            finally:
                transfer.shown = bar.n
        assert bar.n == bar.total
        return transfer

    get.path, get.part = tmp_path / "got" / "x.bin", tmp_path / "got" / "x.bin.part"
    return get


def in_place(get, body=BODY):
    return get.path.read_bytes() == body and not get.part.exists()


def test_a_file_comes_whole_and_is_checked(site, get):
    transfer = get()
    assert in_place(get) and site.bodies("x.bin") == [(0, len(BODY))]
    assert (transfer.sha256, transfer.checked) == (SUM, "size, sha256")


def test_a_file_that_is_there_is_not_fetched_again(site, get):
    get()
    get()
    assert in_place(get) and len(site.bodies("x.bin")) == 1


def test_a_dropped_connection_is_resumed_at_the_missing_byte(site, get, capsys):
    site.drops = [100_000, 50_000]
    get()
    assert in_place(get)
    assert site.bodies("x.bin") == [(0, 100_000), (100_000, 50_000), (150_000, 150_000)]
    assert capsys.readouterr().err.count("trying again") == 2


def test_a_later_call_asks_for_the_missing_bytes_only(site, get):
    site.drops = [100_000, 0, 0, 0]
    with pytest.raises(
        DownloadError, match=r"after 3 tries in a row \(it broke off after 100,000 of 300,000"
    ):
        get()
    assert get.part.stat().st_size == 100_000 and not get.path.exists()
    site.drops, site.sent = [], []
    get()
    assert in_place(get) and site.bodies("x.bin") == [(100_000, 200_000)]


def test_each_byte_that_comes_renews_the_patience(site, get):
    site.drops = [10_000] * 10
    get()
    assert in_place(get) and len(site.bodies("x.bin")) == 11


def test_a_busy_server_is_asked_again(site, get):
    site.busy = 2
    get()
    assert in_place(get)


def test_a_server_without_ranges_starts_anew(site, get):
    site.ranges, site.drops = False, [100_000]
    get()
    assert in_place(get) and site.bodies("x.bin") == [(0, 100_000), (0, 300_000)]


def test_a_file_that_changed_between_two_calls_starts_anew(site, get):
    site.drops = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        get()
    site.files["x.bin"], site.drops, site.sent = BODY[::-1], [], []
    get(sha256=None)
    assert in_place(get, BODY[::-1]) and site.bodies("x.bin") == [(0, 300_000)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changes_while_it_comes_starts_anew(site, get, monkeypatch, ranges):
    site.drops, site.ranges, new = [100_000], ranges, BODY[::-1] + b"more"
    real = site.bodies
    monkeypatch.setattr("abra_wilds.fetch.web.time.sleep", lambda _: site.files.update({"x.bin": new}))
    get(sha256=None)
    assert in_place(get, new) and real("x.bin") == [(0, 100_000), (0, len(new))]


def test_halves_without_etag_are_joined_only_where_a_checksum_is_known(site, get):
    site.etags, site.drops = False, [100_000, 0, 0, 0]
    for sha256, first in ((SUM, 100_000), (None, 0)):
        with pytest.raises(DownloadError):
            get(sha256)
        site.drops, site.sent = [], []
        get(sha256)
        assert in_place(get) and site.bodies("x.bin") == [(first, 300_000 - first)]
        get.path.unlink()
        site.drops = [100_000, 0, 0, 0]


def test_wrong_bytes_are_refused_and_removed(site, get):
    site.files["x.bin"] = BODY[:-1] + b"?"
    with pytest.raises(DownloadError, match="as sha256 instead of") as refusal:
        get()
    assert not get.path.exists() and not get.part.exists() and "\n" not in str(refusal.value)
    site.files["x.bin"] = BODY
    get()
    assert in_place(get)


def test_the_md5_of_a_google_server_is_compared(site, get):
    md5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
    site.headers["x.bin"] = {"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"}
    site.drops = [100_000]
    assert get(sha256=None).checked == "size, md5 of the server"
    assert site.bodies("x.bin") == [(0, 100_000), (100_000, 200_000)]
    site.files["x.bin"] = BODY[:-1] + b"?"
    get.path.unlink()
    with pytest.raises(DownloadError, match="as md5 instead of"):
        get(sha256=None)
    assert not get.path.exists() and not get.part.exists()


def test_a_file_that_always_ends_too_early_is_not_put_in_place(site, get):
    site.drops = [200_000] + [0] * 9
    with pytest.raises(DownloadError, match="broke off after 200,000 of 300,000 bytes"):
        get()
    assert not get.path.exists()


def test_a_part_that_is_too_long_starts_anew(site, get):
    site.drops = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        get()
    get.part.write_bytes(BODY + b"more")
    site.drops, site.sent = [], []
    get()
    assert in_place(get) and site.bodies("x.bin") == [(0, 300_000)]


def test_a_damaged_part_is_found_by_its_checksum(site, get):
    site.drops = [100_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        get()
    get.part.write_bytes(bytes(100_000))
    site.drops = []
    with pytest.raises(DownloadError, match="as sha256"):
        get()
    get()
    assert in_place(get)


def test_an_empty_file_and_a_name_with_a_blank_come_too(site, get):
    get(sha256=hashlib.sha256(b"").hexdigest(), name="a%20b/empty")
    assert in_place(get, b"")


def test_a_full_disk_is_no_reason_to_try_again(site, get, monkeypatch):
    monkeypatch.setattr("abra_wilds.fetch.download.write_text", full_disk)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        get()


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_file_that_is_not_there_is_said_at_once(site, get):
    with pytest.raises(DownloadError, match="answers 404"):
        get(name="y.bin")
    with pytest.raises(DownloadError, match="answers 404"):
        read_text(f"{site.url}/SHA256SUMS", QUICK)
    assert len(site.asked) == 2


def test_a_server_that_cannot_be_reached_is_named():
    with socket.socket() as silent:  # bound, so that nobody else gets the port, and not listening
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.bin"
        with pytest.raises(DownloadError, match=r"x\.bin cannot be had, after 3 tries in a row \(.*refused"):
            probe(url, QUICK)


def test_a_silent_server_times_out():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.bin"
        with pytest.raises(DownloadError, match="timed out"):
            probe(url, Patience(timeout=0.05, tries=2, wait=0.01))
