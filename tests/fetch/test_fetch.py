"""`abra-wilds fetch` against a server of ours: the data set is whole and loads, or it is not there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time

import pytest

from abra_wilds.__main__ import main
from abra_wilds.config.datasets import OTHERS
from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.datasets.layouts import FOLDERS
from abra_wilds.errors import InputError
from abra_wilds.fetch.fetch import fetch
from abra_wilds.fetch.sources import SOURCES
from tests import runs
from tests.data.datasets.published import layouts, read_tree, sums_of, tar, with_sums, zipped
from tests.fetch.http_server import REPO, TEXTS


def get(site, root, name="rxrx1", **more):
    return fetch(name, root, source=site.url + "/", **more)


def assert_loads(name, root, n):
    dataset = load_dataset(name, root)
    assert len(dataset) == n
    return [dataset.get_input(row) for row in range(n)]


@pytest.mark.parametrize("hub", [True, False], ids=("hub", "mirror"))
@pytest.mark.parametrize("layout", list(layouts({"metadata.csv": b""})))
def test_rxrx1_is_fetched_from_any_layout_and_loads(site, wilds_files, tmp_path, layout, hub):
    site.files = with_sums(layouts(wilds_files)[layout])
    target = fetch("rxrx1", tmp_path / "data", None if hub else site.url)
    assert target == tmp_path / "data" / "rxrx1_v1.0"
    found = read_tree(target)
    receipt = json.loads(found.pop("FETCHED.json"))
    assert {n: found[n] for n in wilds_files} == wilds_files
    assert set(found) <= {*wilds_files, "README.md", *(["SHA256SUMS"] if hub else [])}
    assert receipt["source"] == site.url + (f"/datasets/{REPO}/resolve/main" if hub else "")
    assert {n: f["sha256"] for n, f in receipt["files"].items()} == {
        name: hashlib.sha256(site.files[name]).hexdigest() for name in receipt["files"]
    }
    large = [f for name, f in receipt["files"].items() if not (hub and name.endswith(TEXTS))]
    assert {f["checked"] for f in large} == {"size, sha256"}
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


def test_a_download_that_broke_off_is_resumed_by_the_next_call_even_from_a_mirror(
    site, wilds_archive, tmp_path
):
    total, had = len(wilds_archive), 1 << 16
    site.drops = [had, 0]
    with pytest.raises(InputError, match="after 65,536 of"):
        fetch("rxrx1", tmp_path)
    assert os.listdir(tmp_path) == [".rxrx1_v1.0.fetch"]
    site.drops, site.sent = [], []
    get(site, tmp_path)
    assert site.bodies("rxrx1_v1.0.tar.gz") == [(had, total - had)]
    assert_loads("rxrx1", tmp_path, 32)


def test_a_file_that_changed_between_two_calls_starts_anew(site, wilds_files, tmp_path):
    site.drops = [10**9, 1 << 16, 0]
    with pytest.raises(InputError, match="after 65,536 of"):
        get(site, tmp_path)
    new = tar({**wilds_files, "notes.txt": b"new"})
    site.files, site.drops, site.sent = with_sums({"rxrx1_v1.0.tar.gz": new}), [], []
    get(site, tmp_path)
    assert site.bodies("rxrx1_v1.0.tar.gz") == [(0, len(new))]
    assert read_tree(tmp_path / "rxrx1_v1.0")["notes.txt"] == b"new"


@pytest.mark.parametrize("wrong", ["broken", "another archive"])
def test_wrong_bytes_leave_nothing_in_place_and_the_way_by_hand_is_said(site, wilds_files, tmp_path, wrong):
    own = site.files["rxrx1_v1.0.tar.gz"]
    others = {"broken": b"?" + own[1:], "another archive": tar({**wilds_files, "notes.txt": b"new"})}
    site.files["rxrx1_v1.0.tar.gz"] = others[wrong]
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


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("no mirror", "rxrx1", "refused"),
        ("no mirror", "rxrx1_6ch", "refused"),
        ("no hub", "rxrx1", "refused"),
        ("offline", "rxrx1", "HF_HUB_OFFLINE"),
        ("404", "rxrx1", "404"),
        ("nothing", "rxrx1", "lists neither an archive nor a metadata.csv"),
    ],
)
def test_what_cannot_be_had_ends_in_one_sentence_with_the_way_by_hand(
    site, nobody, tmp_path, monkeypatch, capsys, kind, name, said
):
    if kind == "no hub":
        monkeypatch.setattr("time.sleep", lambda _: None)  # between the tries of huggingface_hub
    if kind == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hubs = {"no hub": nobody, "404": f"{site.url}/elsewhere"}
    monkeypatch.setenv("HF_ENDPOINT", hubs.get(kind, site.url))
    site.files = {"README.md": b"card"}
    mirror = ["--source", nobody] if kind == "no mirror" else []
    assert main(["fetch", name, str(tmp_path / "data"), *mirror]) == 2
    *_, shown = capsys.readouterr().err.splitlines()
    holds = f"so that {tmp_path / 'data' / SOURCES[name].folders[0]} holds metadata.csv"
    for part in ("error: ", "http://127.0.0.1", said, "by hand: download", holds, "abra-wilds validate"):
        assert part in shown
    assert not (tmp_path / "data").exists()


def test_without_huggingface_hub_the_command_that_installs_it_is_said(site, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub.hf_api", None)
    with pytest.raises(InputError, match="pip install huggingface_hub"):
        fetch("rxrx1", tmp_path)
    assert get(site, tmp_path) == tmp_path / "rxrx1_v1.0"


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
def test_a_bad_flag_is_refused(site, six_archives, tmp_path, capsys, flags, said):
    site.files = six_archives
    assert main(["fetch", "rxrx1_6ch", str(tmp_path / "data"), "--source", site.url, *flags]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "data").exists()


PROGRAM = """
import os, signal, sys
from abra_wilds.fetch import fetch, unpack
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "unpacking":
    real, left = unpack._check_member, [30]
    def check_member(*args):
        left[0] -= 1
        real(*args) if left[0] else die()
    unpack._check_member = check_member
if sys.argv[3] == "placing":
    fetch.os.replace, real = (lambda a, b: die() if "unpacked" in str(a) else real(a, b)), os.replace
if sys.argv[3] == "tidying":
    fetch.shutil.rmtree = lambda *_, **__: die()
fetch.fetch("rxrx1", fetch.Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("when", ["receiving", "unpacking", "placing", "tidying"])
def test_a_killed_process_leaves_hidden_folders_only_and_the_next_call_finishes(
    site, wilds_archive, tmp_path, when
):
    name, root, had = "rxrx1_v1.0.tar.gz", tmp_path / "data", 1 << 16
    site.stalls = 80_000 if when == "receiving" else 0
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), site.url, when],
        cwd=runs.REPOSITORY,
        stderr=subprocess.DEVNULL,
    )
    while when == "receiving" and process.poll() is None:
        if any(path.stat().st_size >= had for path in root.glob(f".rxrx1_v1.0.fetch/*/{name}")):
            process.kill()
        time.sleep(0.01)
    assert process.wait() == -9
    whole = ["rxrx1_v1.0"] if when == "tidying" else []
    assert sorted(os.listdir(root)) == [".rxrx1_v1.0.fetch", *whole]
    site.stalls, site.sent = 0, []
    assert (get(site, root) is None) == (when == "tidying")
    assert site.bodies(name) == ([(had, len(wilds_archive) - had)] if when == "receiving" else [])
    assert os.listdir(root) == ["rxrx1_v1.0"]
    assert_loads("rxrx1", root, 32)


@pytest.mark.parametrize("name", OTHERS)
def test_other_sets_of_wilds_are_fetched_and_load(site, others_root, tmp_path, name, monkeypatch, capsys):
    version = {"iwildcam": "2.0", "fmow": "1.1"}.get(name, "1.0")
    files = read_tree(others_root / f"{name}_v{version}")
    site.files = with_sums(
        {f"{name}.tar.gz": tar({f"x/{n}": b for n, b in files.items() if "RELEASE" not in n})}
    )
    assert main(["fetch", name, str(tmp_path), "--source", site.url]) == 0
    found = read_tree(tmp_path / f"{name}_v{version}")
    assert json.loads(found.pop("FETCHED.json"))["licence"] == SOURCES[name].licence
    assert found == files and "validate" not in capsys.readouterr().out
    assert len(load_dataset(name, tmp_path)) > 40
