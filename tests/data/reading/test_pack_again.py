"""A data set that is packed already, is being packed, or has lost a part of its pack."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from abra_wilds.__main__ import main
from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.reading import pack as packing
from abra_wilds.data.reading import pack_plate
from abra_wilds.data.reading.images import image_files, read_image
from abra_wilds.data.reading.pack import from_files, pack
from abra_wilds.data.reading.packed import INDEX, Pack
from tests import disks, runs
from tests.data.datasets.test_catalogue import refused
from tests.data.screens import own_screen

HOLDS = """
import sys
from pathlib import Path
from abra_wilds.data.reading.pack import pack_lock
with pack_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path):
    """A root_dir of two plates of six sites of 4 x 4 and six stains."""
    own_screen(tmp_path / "root", {"A-1": "train", "A-2": "test"})
    return tmp_path / "root"


def test_a_pack_without_an_index_is_warned_of_by_one_process(root, load, monkeypatch):
    (pack(load()) / INDEX).unlink()
    match = f"{root}/rxrx1/packed, .*unfinished .*'abra-wilds pack"
    with pytest.warns(UserWarning, match=match):
        assert load_dataset("rxrx1_6ch", root, split_scheme="official").pack is None
    monkeypatch.setattr("abra_wilds.data.reading.packed.is_main", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_dataset("rxrx1_6ch", root, split_scheme="official").pack is None


def test_a_second_start_waits_for_the_first_and_finds_its_work_done(root, load, monkeypatch, capfd):
    """Of two at once one would take what the other is writing for left over."""
    program = [sys.executable, "-c", HOLDS, root / "rxrx1"]
    first = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"locked\n"
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(pack, load())
        end = time.monotonic() + 300
        while "waiting for it" not in (said := capfd.readouterr().err) and time.monotonic() < end:
            time.sleep(0.01)
        assert f"another process is packing {root / 'rxrx1'}; waiting for it" in said
        left = root / "rxrx1" / "packed" / ".A-2_plate1.npy.1.tmp"
        left.parent.mkdir()
        left.touch()
        assert not second.done()
        first.communicate()
        assert (second.result(300) / INDEX).exists() and not left.exists()


def test_a_folder_that_cannot_be_locked_is_packed_and_that_is_said(root, load, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert len(Pack.open(pack(load()))) == 12
    assert f"{root / 'rxrx1'} cannot be locked; pack it by one command at a time" in capsys.readouterr().err


def test_a_plate_that_is_removed_while_others_are_packed_leaves_no_whole_pack(root, load, monkeypatch):
    write = packing.write_plates

    def write_and_remove(dataset, plan, todo, workers):
        write(dataset, plan, todo, workers)
        (plan.folder / "A-2_plate1.npy").unlink()

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_plates", write_and_remove)
        refused(r"A-2_plate1.npy was removed while .*; start again", pack, load())
    assert not (root / "rxrx1" / "packed" / INDEX).exists()
    assert len(Pack.open(pack(load()))) == 12


@pytest.fixture
def copied(root, load, tmp_path, monkeypatch):
    """A packed data set, copied without its times; decoding an image of it is an error from here on."""

    def refuse(plan, dataset, row):
        raise AssertionError("an image is decoded again")

    pack(load())
    time.sleep(0.02)  # more than a tick of the file system's clock
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    monkeypatch.setattr(pack_plate, "pixels", refuse)
    return tmp_path / "copy"


def read_by_default(root):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset("rxrx1_6ch", root, split_scheme="official").pack is not None


def test_a_copy_without_times_is_not_decoded_again_and_its_pack_then_read(copied):
    assert not read_by_default(copied)
    pack(from_files("rxrx1_6ch", copied))
    assert read_by_default(copied)


def test_a_copy_in_which_an_image_has_another_size_is_packed_again(copied):
    dataset = from_files("rxrx1_6ch", copied)
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(image_files(dataset, 0)[2])
    with pytest.raises(AssertionError, match="decoded again"):
        pack(dataset)


def test_images_that_are_all_touched_are_not_decoded_again_and_one_that_is_older_is(copied):
    dataset = from_files("rxrx1_6ch", copied)
    pack(dataset)
    for row in range(len(dataset)):
        for path in image_files(dataset, row):
            os.utime(path, ns=(1, 1))
    assert not read_by_default(copied)
    pack(dataset)
    assert read_by_default(copied)
    os.utime(image_files(dataset, 0)[2], ns=(0, 0))
    assert not read_by_default(copied)
    with pytest.raises(AssertionError, match="decoded again"):
        pack(dataset)


def test_a_pack_of_an_earlier_format_is_said_to_need_packing_again_and_is_then_read(root, load):
    folder = pack(load())
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        for table in content.get("files", [content]):
            del table["sizes"], table["times"]
        content.pop("tables", None)
        path.write_text(json.dumps(content | ({"format": 1} if path.name == INDEX else {})))
    with pytest.warns(UserWarning, match="format 1, and this version reads 2; .*'abra-wilds pack"):
        assert load_dataset("rxrx1_6ch", root, split_scheme="official").pack is None
    pack(load())
    assert read_by_default(root)


def test_an_image_written_over_in_place_is_packed_again_even_if_its_size_is_the_same(root, load):
    dataset = load()
    folder = pack(dataset)
    path = Path(image_files(dataset, 0)[0])
    size = path.stat().st_size
    before = np.asarray(Image.open(path))
    Image.fromarray(before[::-1, ::-1]).save(path)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    os.utime(path, ns=(2 * path.stat().st_mtime_ns,) * 2)
    pack(load())
    packed = Pack.open(folder).read(str(dataset._input_array[0]))[0].numpy()
    assert np.array_equal(packed, before[::-1, ::-1])


def age(path, hours):
    """Let a file or folder be as many hours younger than now."""
    at = path.stat().st_mtime_ns + int(hours * 3.6e12)
    os.utime(path, ns=(at, at))


def visit(folder):
    """What file managers and people leave, dated tomorrow, in folders dated tomorrow and last year."""
    plates = sorted((folder / "images").glob("*/*"))
    for k, place in enumerate([folder, *plates]):
        (place / ".DS_Store").write_text("x")
        (place / "Thumbs.db").write_text("x")
        (place / "notes.csv").write_text("well\nB02\n")
        age(place / "notes.csv", 24)
        age(place, 24 if k % 2 else -24 * 365)
    for table in (folder / "metadata.csv", folder / "packed" / INDEX):
        age(table, 24 if table.name == INDEX else 48)


def test_a_visit_to_the_folders_and_a_clock_that_is_wrong_leave_a_pack_as_it_is(root, load):
    index = pack(load()) / INDEX
    before = index.read_bytes()
    visit(root / "rxrx1")
    assert read_by_default(root)
    pack(load())
    assert index.read_bytes() == before


def relabel(folder):
    table = pd.read_csv(folder / "metadata.csv")
    table["sirna_id"] = table["sirna_id"].max() - table["sirna_id"]
    table.to_csv(folder / "metadata.csv", index=False)


def older_image(folder):
    age(folder / "images/A-2/Plate1/B03_s1_w4.png", -24)


def longer_image(folder):
    path = folder / "images/A-2/Plate1/B03_s1_w4.png"
    before = path.stat()
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "labels": (relabel, "metadata.csv is not what .*packed was packed by"),
    "an older image": (older_image, "1 of 12 images, first images/A-2/Plate1/B03_s1, .*cp -p"),
    "a longer image": (longer_image, "1 of 12 images, first images/A-2/Plate1/B03_s1, .*cp -p"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_pack_of_other_tables_or_images_is_not_read_until_the_command_that_is_named_has_run(
    root, load, name
):
    change, match = CHANGES[name]
    pack(load())
    change(root / "rxrx1")
    asked = {"split_scheme": "official", "data_format": "packed"}
    sentence = refused(match, load_dataset, "rxrx1_6ch", root, **asked)
    with pytest.warns(UserWarning, match=f"{match}.*'abra-wilds pack"):
        assert load_dataset("rxrx1_6ch", root, split_scheme="official").pack is None
    command = sentence.split("'")[1].removeprefix("abra-wilds ").split()
    assert main([*command, "--workers", "1"]) == 0
    found, files = load_dataset("rxrx1_6ch", root, **asked), load()
    assert all(torch.equal(read_image(found, row), read_image(files, row)) for row in range(12))


@pytest.mark.parametrize(
    "pattern", ["*A-1_plate1.npy*", "*A-2_plate1.npy*", "*A-2_plate1.json*", "*index.json*"]
)
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_pack_that_fills_the_disk_is_finished_by_the_same_command(root, capsys, tmp_path, pattern, share):
    shutil.copytree(root, tmp_path / "twin", copy_function=shutil.copy2)
    command = ["pack", str(root), "--workers", "1"]
    with pytest.MonkeyPatch.context() as patch:
        disk = disks.fill(patch, tmp_path / "twin", pattern)
        assert main(["pack", str(tmp_path / "twin"), "--workers", "1"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        disks.fill(patch, root, pattern, int(share * disk.taken))
        said = runs.sentence(capsys, main, command, code=1)
    folder = root / "rxrx1" / "packed"
    named = folder / pattern.strip("*")
    runs.assert_says(said, f"No space left on device ({named}); make room there; the same command goes on")
    assert not list(folder.glob(".*.tmp")) and not (folder / INDEX).exists()
    tables = [path for path in folder.glob("*.json") if json.loads(path.read_text())]
    before = {path.with_suffix(".npy"): path.with_suffix(".npy").stat().st_ino for path in tables}
    assert len(before) == {"A-1": 0, "A-2": 1, "ind": 2}[pattern[1:4]]
    assert main(command) == 0
    assert {path: path.stat().st_ino for path in before} == before
    for path in folder.glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "twin" / "rxrx1" / "packed" / path.name).read_bytes()
    assert load_dataset("rxrx1_6ch", root, split_scheme="official").pack is not None
