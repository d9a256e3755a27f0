"""`abra-wilds pack`: whole or not there, whatever stops it, and refused where it cannot be right."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from abra_wilds.__main__ import main
from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.reading import pack as packing
from abra_wilds.data.reading.images import image_files
from abra_wilds.data.reading.pack import found_name, from_files, pack
from abra_wilds.data.reading.packed import INDEX, Pack
from tests import runs
from tests.data.datasets.test_catalogue import refused
from tests.data.screens import own_screen

SCREEN = {"A-1": "train", "A-2": "train", "A-3": "test"}

# A pack of a root_dir that stands still in the middle of its third plate.
STANDS_STILL = """
import sys, time
from pathlib import Path
from abra_wilds.data.reading import pack_plate
from abra_wilds.data.reading.pack import from_files, pack
real, seen = pack_plate.pixels, []
def pixels(plan, dataset, row):
    seen.append(row)
    if len(seen) == 6 * 2 + 3:
        Path(sys.argv[2]).touch()
        time.sleep(600)
    return real(plan, dataset, row)
pack_plate.pixels = pixels
pack(from_files("rxrx1_6ch", sys.argv[1]))
"""


@pytest.fixture
def root(tmp_path):
    """A root_dir of three plates of six sites of 4 x 4 and six stains, for a test to damage."""
    own_screen(tmp_path / "root", SCREEN)
    return tmp_path / "root"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}


def overwrite(path, side=4, hours=1.0, dtype=np.uint8):
    """Another image in place of one, written so many hours from now."""
    Image.fromarray(np.full((side, side), 7, dtype)).save(path)
    at = time.time_ns() + int(hours * 3.6e12)
    os.utime(path, ns=(at, at))


# The same bytes, come what may


def test_bytes_do_not_depend_on_the_order_of_rows(root, load):
    before = contents(pack(load()))
    assert set(before) == {INDEX, *(f"A-{k}_plate1.{end}" for k in (1, 2, 3) for end in ("npy", "json"))}
    shutil.rmtree(root / "rxrx1" / "packed")
    path = root / "rxrx1" / "metadata.csv"
    pd.read_csv(path).sample(frac=1, random_state=0).to_csv(path, index=False)
    assert contents(pack(load())) == before


def test_a_kill_loses_the_plate_in_work_alone_and_the_next_start_makes_it_whole(root, load, tmp_path):
    shutil.copytree(root, tmp_path / "twin", copy_function=shutil.copy2)
    uninterrupted = contents(pack(from_files("rxrx1_6ch", tmp_path / "twin")))
    program = [sys.executable, "-c", STANDS_STILL, root, tmp_path / "reached"]
    child = subprocess.Popen(program, cwd=runs.REPOSITORY, stderr=subprocess.PIPE)
    end = time.monotonic() + 300
    while not (tmp_path / "reached").exists() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -9
    folder = root / "rxrx1" / "packed"
    kept = times(folder)
    assert set(kept) == {"A-1_plate1.npy", "A-2_plate1.npy"}
    assert [path.name for path in folder.glob(".*.tmp")] == [f".A-3_plate1.npy.{child.pid}.tmp"]
    with pytest.warns(UserWarning, match="unfinished .*'abra-wilds pack"):
        assert load_dataset("rxrx1_6ch", root, split_scheme="official").pack is None
    assert contents(pack(load())) == uninterrupted
    assert times(folder).items() > kept.items()


@pytest.mark.slow
def test_the_command_killed_with_its_two_processes_leaves_no_process_and_resumes(six_root, tmp_path):
    root, twin = (Path(shutil.copytree(six_root, tmp_path / name)) for name in ("root", "twin"))
    folder = root / "rxrx1" / "packed"
    dataset = from_files("rxrx1_6ch", root)
    never = Path(image_files(dataset, len(dataset) - 1)[0])
    image = never.rename(tmp_path / "image")
    os.mkfifo(never)  # whoever opens it waits
    program = "import sys; from abra_wilds.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "pack", root, "--workers", "2"]
    child = subprocess.Popen(command, cwd=runs.REPOSITORY, stderr=subprocess.PIPE)
    end = time.monotonic() + 300
    while not list(folder.glob("*.json")) and child.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    # Its pipe closes once its own processes have ended as well.
    child.communicate(timeout=300)
    image.replace(never)
    assert child.returncode == -9 and not (folder / INDEX).exists()
    assert main(["pack", str(root), "--workers", "1"]) == main(["pack", str(twin), "--workers", "1"]) == 0
    assert contents(folder) == contents(twin / "rxrx1" / "packed")


def test_a_second_start_changes_nothing_but_what_changed(root, load):
    folder = pack(load())
    before, at = contents(folder), times(folder)
    assert contents(pack(load())) == before and times(folder) == at
    dataset = load()
    row = [str(stem) for stem in dataset._input_array].index("images/A-2/Plate1/B03_s1")
    overwrite(image_files(dataset, row)[4])
    pack(load())
    changed = {name for name, then in at.items() if times(folder)[name] != then}
    assert changed == {"A-2_plate1.npy"}
    assert (Pack.open(folder).read("images/A-2/Plate1/B03_s1")[4] == 7).all()


def test_an_image_replaced_by_another_of_the_same_age_is_packed_again(root, load):
    dataset = load()
    folder = pack(dataset)
    path = Path(image_files(dataset, 0)[0])
    before = path.stat()
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(path)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert path.stat().st_size != before.st_size
    pack(load())
    assert (Pack.open(folder).read(str(dataset._input_array[0]))[0] == 7).all()


def test_packed_plates_stay_when_their_image_files_are_deleted(root, load):
    folder = pack(load())
    before = contents(folder)
    for path in (root / "rxrx1" / "images" / "A-1" / "Plate1").glob("*_s1_*"):
        path.unlink()
    shutil.rmtree(root / "rxrx1" / "images" / "A-2")
    assert contents(pack(load())) == before
    assert load_dataset("rxrx1_6ch", root, split_scheme="official").pack is not None


def test_a_pack_is_not_whole_while_a_plate_of_it_is_packed_again(root, load, monkeypatch):
    dataset = load()
    folder = pack(dataset)
    overwrite(image_files(dataset, 0)[0])
    seen = []
    monkeypatch.setattr(packing, "write_plates", lambda *args: seen.append((folder / INDEX).exists()))
    pack(load())
    assert seen == [False]


def test_images_that_change_while_others_are_packed_are_not_those_of_the_pack(root, load, monkeypatch):
    def late(dataset, plan, todo, workers, real=packing.write_plates):
        real(dataset, plan, todo, workers)
        overwrite(root / "rxrx1" / "images" / "A-1" / "Plate1" / "B03_s2_w5.png", hours=-24)

    monkeypatch.setattr(packing, "write_plates", late)
    pack(load())
    with pytest.warns(UserWarning, match="1 of 18 images, first images/A-1/Plate1/B03_s2, "):
        assert load_dataset("rxrx1_6ch", root, split_scheme="official").pack is None


# Refusals


def test_too_little_disk_is_said_before_the_first_byte(root, load, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    free = [18 * 6 * 4 * 4]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free[0]))
    said = f"packing 18 images needs 0.00 GB and {root}/rxrx1 has 0.00 GB free; free some, or pack smaller"
    refused(said, pack, load())
    assert not (root / "rxrx1" / "packed").exists()
    free[0] *= 10
    folder = pack(load())
    before = contents(folder)
    overwrite(image_files(load(), 0)[0])
    free[0] = 100
    refused("6 images", pack, load())
    assert contents(folder) == before


def test_missing_images_are_counted_before_anything_is_packed(root, load):
    dataset = load()
    for row in (4, 9):
        Path(image_files(dataset, row)[1]).unlink()
    first = min(image_files(dataset, row)[1] for row in (4, 9))
    refused(f"2 of 108 images .*{first}", pack, dataset)
    assert not (root / "rxrx1" / "packed").exists()


def test_images_that_cannot_be_packed_are_counted_and_the_other_plates_kept(root, load):
    dataset = load()
    rows = {str(stem): row for row, stem in enumerate(dataset._input_array)}
    small = [image_files(dataset, rows[f"images/A-2/Plate1/B02_s{site}"]) for site in (1, 2)]
    for path in small[0]:
        overwrite(path, side=3)
    overwrite(small[1][3], dtype=np.uint16)
    said = (
        r"2 images cannot be packed, the first: .*B02_s1_w1.png has shape \(6, 3, 3\) and the first image "
        r"has \(6, 4, 4\) .*; then start again, which keeps"
    )
    refused(said, pack, dataset)
    folder = root / "rxrx1" / "packed"
    assert set(times(folder)) == {"A-1_plate1.npy", "A-3_plate1.npy"}
    assert not (folder / INDEX).exists() and not list(folder.glob(".*"))
    for path in small[0]:
        overwrite(path)
    refused(f"1 images .*{small[1][3]} is 4 x 4 pixels of uint16", pack, dataset)
    overwrite(small[1][3])
    at = times(folder)
    assert len(Pack.open(pack(dataset))) == 18 and times(folder).items() > at.items()


def test_images_of_another_size_beside_kept_plates_are_refused(root, load):
    dataset = load()
    folder = pack(dataset)
    for path in (root / "rxrx1" / "images" / "A-3").rglob("*.png"):
        overwrite(path, side=8)
    refused(
        rf"{folder} .*\(6, 4, 4\) and A-3_plate1 has \(6, 8, 8\)",
        pack, dataset,
    )  # fmt: skip


def test_a_folder_that_cannot_be_made_is_said(root, load):
    (root / "rxrx1" / "packed").touch()
    refused("rxrx1/packed .*File exists", pack, load())


def test_the_data_set_is_found_by_its_folder(root, tmp_path):
    assert found_name(root) == "rxrx1_6ch"
    (root / "rxrx1_v1.0").mkdir()
    refused(f"{root} .*rxrx1 and rxrx1_6ch; .*--dataset", found_name, root)
    shutil.rmtree(root / "rxrx1")
    assert found_name(root) == "rxrx1"
    refused(f"{tmp_path}/no .*rxrx1_v1.0", found_name, tmp_path / "no")


def test_the_command_says_what_it_packed_and_refuses_in_one_sentence(root, capsys):
    assert main(["pack", str(root), "--workers", "1"]) == 0
    assert capsys.readouterr().out == f"packed 18 images into {root}/rxrx1/packed\n"
    assert main(["pack", str(root), "--size", "2", "--workers", "0"]) == 2
    assert capsys.readouterr().err == "error: workers is 0; give a whole number of at least 1\n"
    assert not (root / "rxrx1" / "packed_2").exists()
