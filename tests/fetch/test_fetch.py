"""`abra-wilds fetch` against a server of ours: the data set is whole and loads, or it is not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pandas as pd
import pytest

from abra_wilds.__main__ import main
from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.datasets.layouts import FOLDERS
from abra_wilds.errors import InputError
from abra_wilds.fetch import fetch as module
from abra_wilds.fetch.fetch import fetch
from abra_wilds.fetch.sources import SOURCES
from abra_wilds.fetch.web import Patience
from tests import runs
from tests.data.datasets.published import layouts, read_tree, sums_of, tar, with_sums, zipped
from tests.fetch.http_server import serving

QUICK = Patience(timeout=60.0, tries=3, wait=0.01)


@pytest.fixture(scope="session")
def wilds_files(sim_root, tmp_path_factory):
    """{path: bytes} of a corner of the tiny RxRx1-WILDS: 32 images."""
    folder = sim_root / "rxrx1_v1.0"
    rows = pd.read_csv(folder / "metadata.csv")
    rows = rows[(rows["plate"] == 1) & rows["well"].isin(["B02", "B03"]) & (rows["cell_type"] < "I")]
    rows = rows.assign(sirna_id=pd.factorize(rows["sirna_id"])[0])
    names = "images/" + rows["experiment"] + "/Plate1/" + rows["well"] + "_s" + rows["site"].astype(str)
    images = {f"{name}.png": (folder / f"{name}.png").read_bytes() for name in names}
    return {"metadata.csv": rows.to_csv(index=False).encode(), "RELEASE_v1.0.txt": b"", **images}


@pytest.fixture(scope="session")
def wilds_archive(wilds_files):
    return tar({f"./{name}": body for name, body in wilds_files.items()})


@pytest.fixture(scope="session")
def six_archives(six_root):
    """The two archives of a small six-channel screen, as the publisher has them."""
    files = {f"rxrx1/{n}": b for n, b in read_tree(six_root / "rxrx1").items() if n != "SIMULATED.json"}
    tables = {name: body for name, body in files.items() if name.endswith("metadata.csv")}
    images = {name: body for name, body in files.items() if name.endswith(".png")}
    return {"rxrx1-metadata.zip": zipped(tables), "rxrx1-images.zip": zipped(images)}


@pytest.fixture
def site(wilds_archive, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving(with_sums({"README.md": b"card", "rxrx1_v1.0.tar.gz": wilds_archive})) as site:
        yield site


def get(site, root, name="rxrx1", **more):
    return fetch(name, root, source=site.url + "/", patience=QUICK, **more)


def assert_loads(name, root, n):
    dataset = load_dataset(name, root)
    assert len(dataset) == n
    return [dataset.get_input(row) for row in range(n)]


@pytest.mark.parametrize("layout", list(layouts({"metadata.csv": b""})))
def test_rxrx1_is_fetched_from_any_layout_and_loads(site, wilds_files, tmp_path, layout):
    site.files = with_sums(layouts(wilds_files)[layout])
    target = get(site, tmp_path / "data")
    assert target == tmp_path / "data" / "rxrx1_v1.0"
    found = read_tree(target)
    receipt = json.loads(found.pop("FETCHED.json"))
    assert {n: found[n] for n in wilds_files} == wilds_files and set(found) <= {*wilds_files, "README.md"}
    assert {n: f["sha256"] for n, f in receipt["files"].items()} == {
        name: hashlib.sha256(site.files[name]).hexdigest() for name in receipt["files"]
    }
    assert_loads("rxrx1", tmp_path / "data", 32)
    assert os.listdir(tmp_path / "data") == ["rxrx1_v1.0"]


def test_six_channels_are_fetched_and_load(site, six_archives, tmp_path):
    site.files = six_archives
    target = get(site, tmp_path, "rxrx1_6ch")
    assert target.name == "rxrx1" and len(assert_loads("rxrx1_6ch", tmp_path, 192)[0]) == 6
    receipt = json.loads((target / "FETCHED.json").read_text())
    assert {(f["sha256"], f["checked"]) for f in receipt["files"].values()} == {
        (hashlib.sha256(body).hexdigest(), "size") for body in six_archives.values()
    }


def test_a_checksum_from_a_colleague_is_compared(site, six_archives, tmp_path, capsys):
    site.files = six_archives
    command = ["fetch", "rxrx1_6ch", str(tmp_path), "--source", site.url, "--sha256"]
    right = hashlib.sha256(six_archives["rxrx1-images.zip"]).hexdigest()
    assert main([*command, f"rxrx1-images.zip={'0' * 64}"]) == 2
    said = capsys.readouterr().err
    assert f"{right} as sha256 instead of {'0' * 64}" in said and not (tmp_path / "rxrx1").exists()
    assert main([*command, f"rxrx1-images.zip={right.upper()}"]) == 0
    assert f"sha256 {right}  (compared: size, sha256)" in capsys.readouterr().out


def test_the_command_says_what_came_where_its_licence_and_what_is_next(site, tmp_path, capsys):
    command = ["fetch", "rxrx1", str(tmp_path), "--source", site.url]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert f"fetched rxrx1 into {tmp_path / 'rxrx1_v1.0'}: " in shown
    assert "CC BY-NC-SA 4.0, Recursion" in shown and f"abra-wilds validate {tmp_path}" in shown
    site.asked = []
    assert main(command) == 0
    assert "already there" in capsys.readouterr().out and site.asked == []


def test_a_dropped_connection_is_resumed_by_the_next_call(site, wilds_archive, tmp_path):
    total = len(wilds_archive)
    site.drops = [10**9, 50_000, 0, 0, 0]  # the first body is that of SHA256SUMS
    with pytest.raises(InputError, match="broke off after 50,000"):
        get(site, tmp_path)
    assert os.listdir(tmp_path) == [".rxrx1_v1.0.fetch"]
    site.drops, site.sent = [], []
    get(site, tmp_path)
    assert site.bodies("rxrx1_v1.0.tar.gz") == [(50_000, total - 50_000)]
    assert_loads("rxrx1", tmp_path, 32)


def test_wrong_bytes_leave_nothing_in_place_and_the_way_by_hand_is_said(site, tmp_path):
    site.files["rxrx1_v1.0.tar.gz"] = b"?" + site.files["rxrx1_v1.0.tar.gz"][1:]
    with pytest.raises(InputError) as refusal:
        get(site, tmp_path)
    said = str(refusal.value)
    for part in ("as sha256 instead of", "huggingface.co/datasets/pangwei/wilds-rxrx1", "by hand", "RELEASE"):
        assert part in said
    assert "\n" not in said
    assert os.listdir(tmp_path) == [".rxrx1_v1.0.fetch"] and read_tree(tmp_path) == {}


def test_a_climbing_archive_leaves_nothing_in_place(site, wilds_files, tmp_path):
    site.files = with_sums({"x.tar.gz": tar({**wilds_files, "../../../../evil": b"x"})})
    with pytest.raises(InputError, match="may lie outside"):
        get(site, tmp_path / "a" / "b")
    left = read_tree(tmp_path)
    assert {name.split("/")[2] for name in left} == {".rxrx1_v1.0.fetch"}
    assert not any("unpacked" in name or "evil" in name for name in left)


@pytest.mark.parametrize(
    ("sums", "said"),
    [
        (b"<html>sign in</html>", "lists neither an archive nor a metadata.csv"),
        (sums_of({"README.md": b""}), "lists neither an archive nor a metadata.csv"),
        (sums_of({"../x.tar.gz": b""}), "may lie outside"),
        (sums_of({"gone.tar.gz": b""}), "gone.tar.gz answers 404"),
    ],
)
def test_a_bad_list_of_checksums_is_refused(site, tmp_path, sums, said):
    site.files["SHA256SUMS"] = sums
    with pytest.raises(InputError, match=said):
        get(site, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_archives_without_the_data_set_are_refused(site, six_archives, tmp_path):
    site.files = {**six_archives, "rxrx1-metadata.zip": zipped({"other.csv": b""})}
    with pytest.raises(InputError, match="holds no metadata"):
        get(site, tmp_path, "rxrx1_6ch")
    site.files = {**six_archives, "rxrx1-images.zip": zipped({"1.png": b""})}
    with pytest.raises(InputError, match="holds no folder images"):
        get(site, tmp_path, "rxrx1_6ch")
    assert os.listdir(tmp_path) == [".rxrx1.fetch"]


def test_too_little_disk_is_said_before_the_first_byte(site, wilds_archive, tmp_path, monkeypatch):
    enough = len(wilds_archive) * (1 + module.UNPACKED)
    usage = shutil.disk_usage(tmp_path)
    free = {"now": enough - 1}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free["now"]))
    with pytest.raises(InputError, match=r"GB free, and rxrx1 needs 0\.0 GB"):
        get(site, tmp_path / "data")
    assert site.bodies("rxrx1_v1.0.tar.gz") == [] and not (tmp_path / "data").exists()
    free["now"] = enough + 1
    get(site, tmp_path / "data")


@pytest.mark.parametrize("name", list(SOURCES))
def test_an_unreachable_server_ends_in_one_sentence_with_the_way_by_hand(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "Patience", lambda: QUICK)
    with socket.socket() as silent:  # bound, so that nobody else gets the port, and not listening
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert main(["fetch", name, str(tmp_path / "data"), "--source", url]) == 2
    *_, said = capsys.readouterr().err.splitlines()
    holds = f"so that {tmp_path / 'data' / SOURCES[name].folders[0]} holds metadata.csv"
    for part in ("error: http://127.0.0.1", "refused", "by hand: download", holds, "abra-wilds validate"):
        assert part in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_data_set_under_either_name_is_left_alone(site, six_root, tmp_path, folder):
    (tmp_path / folder / "images").mkdir(parents=True)
    (tmp_path / folder / "metadata.csv").touch()
    assert get(site, tmp_path, "rxrx1_6ch") is None and site.asked == []
    assert set(SOURCES["rxrx1_6ch"].folders) == set(FOLDERS)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("rxrx1_v1.0/notes.txt", "exists without metadata.csv, RELEASE_v1.0.txt, images"),
        ("rxrx1_v1.0/SIMULATED.json", "is a simulated screen"),
        ("rxrx1_v1.0", "exists without"),
    ],
)
def test_something_else_in_its_place_is_refused_and_kept(site, tmp_path, made, said):
    (tmp_path / made).parent.mkdir(exist_ok=True)
    (tmp_path / made).write_text("mine")
    with pytest.raises(InputError, match=said):
        get(site, tmp_path)
    assert read_tree(tmp_path) == {made: b"mine"} and site.asked == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--source", "file:///etc"], "--source file:///etc is not an address"),
        (["--sha256", "x.zip=12"], "--sha256 x.zip=12 is not NAME=HEX"),
        (["--sha256", f"x.zip={'0' * 64}"], "--sha256 is given for x.zip, and what is fetched is rxrx1-"),
    ],
)
def test_a_bad_flag_is_refused(tmp_path, capsys, flags, said):
    assert main(["fetch", "rxrx1_6ch", str(tmp_path / "data"), *flags]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "data").exists()


def test_a_root_that_cannot_be_written_is_named(site, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["fetch", "rxrx1", str(tmp_path / "file" / "data"), "--source", site.url]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and "cannot be written" in said


PROGRAM = """
import os, signal, sys
from abra_wilds.fetch import fetch, unpack
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "unpacking":
    real, left = unpack._write, [30]
    def write(*args):
        left[0] -= 1
        die() if not left[0] else real(*args)
    unpack._write = write
if sys.argv[3] == "placing":
    fetch.os.replace, real = (lambda a, b: die() if "unpacked" in str(a) else real(a, b)), os.replace
if sys.argv[3] == "tidying":
    real_rmtree = fetch.shutil.rmtree
    fetch.shutil.rmtree = lambda p, **k: real_rmtree(p, **k) if "unpacked" in str(p) else die()
fetch.fetch("rxrx1", fetch.Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("when", ["receiving", "unpacking", "placing", "tidying"])
def test_a_killed_process_leaves_hidden_folders_only_and_the_next_call_finishes(
    site, wilds_archive, tmp_path, when
):
    name, root = "rxrx1_v1.0.tar.gz", tmp_path / "data"
    site.stalls = 80_000 if when == "receiving" else 0
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), site.url, when],
        cwd=runs.REPOSITORY,
        stderr=subprocess.DEVNULL,
    )
    part = root / ".rxrx1_v1.0.fetch" / "files" / f"{name}.part"
    while when == "receiving" and process.poll() is None:
        if part.is_file() and part.stat().st_size >= 65_536:
            process.kill()
        time.sleep(0.01)
    assert process.wait() == -9
    whole = ["rxrx1_v1.0"] if when == "tidying" else []
    assert sorted(os.listdir(root)) == [".rxrx1_v1.0.fetch", *whole]
    had = part.stat().st_size if when == "receiving" else len(wilds_archive)
    site.stalls, site.sent = 0, []
    assert (get(site, root) is None) == (when == "tidying")
    assert site.bodies(name) == ([(had, len(wilds_archive) - had)] if when == "receiving" else [])
    assert os.listdir(root) == ["rxrx1_v1.0"]
    assert_loads("rxrx1", root, 32)
