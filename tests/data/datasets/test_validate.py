"""`abra-wilds validate`: every damaged file is named, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from abra_wilds.__main__ import main
from abra_wilds.data.datasets.validate import MOST_LINES
from abra_wilds.data.reading.images import image_files
from abra_wilds.data.reading.pack import from_files, pack
from abra_wilds.data.reading.packed import INDEX
from tests.data.screens import own_screen


@pytest.fixture
def root(tmp_path):
    """A root_dir of three plates of six sites of 4 x 4 and six stains."""
    own_screen(tmp_path, {"A-1": "train", "A-2": "train", "B-1": "test"})
    return tmp_path


@pytest.fixture
def dataset(root):
    return from_files("rxrx1_6ch", root)


@pytest.fixture
def validate(root, capsys):
    """Runs the command; returns its exit code and what it printed."""

    def run(*flags, where=root):
        code = main(["validate", str(where), "--workers", "1", *flags])
        return code, capsys.readouterr().out

    return run


def problems(out):
    """The indented lines after the number of problems."""
    return [line.strip() for line in out.splitlines() if line.startswith("  ")]


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_whole_data_set_passes_and_its_splits_are_counted(validate, root, dataset):
    pack(dataset)
    pack(dataset, size=2)
    code, out = validate()
    assert code == 0
    assert out == (
        f"rxrx1_6ch in {root}/rxrx1: 18 images\n"
        "6 stains in every plate\n"
        "split  images  experiments  plates  wells  classes  sites a well  images a plate\n"
        "train      12            2       2      6        3             2               6\n"
        "test        6            1       1      3        3             2               6\n"
        "experiments of test: B-1\n"
        "blank channels: none\n"
        "packed: 18 images of (6, 4, 4) read\n"
        "packed_2: 18 images of (6, 2, 2) read\n"
        "nothing is wrong\n"
    )


def test_three_channels_pass_too(validate, sim_root):
    code, out = validate(where=sim_root)
    row = ["val", "256", "4", "16", "128", "9", "2", "16"]
    assert code == 0 and row in [line.split() for line in out.splitlines()]


def test_the_image_of_a_flipped_byte_is_named_and_fixed_by_packing_it_again(validate, root, dataset):
    path = pack(dataset) / "A-2_plate1.npy"
    flip(path, 128 + 3 * 6 * 16 + 50)
    code, out = validate()
    name = "images/A-2/Plate1/B03_s2"
    assert code == 1 and problems(out) == [
        f"{path} has changed where {name} is; delete {path} and run 'abra-wilds pack {root} "
        "--dataset rxrx1_6ch' again"
    ]
    path.unlink()
    assert main(["pack", str(root), "--workers", "1"]) == 0
    assert validate()[0] == 0


def test_a_flipped_byte_of_a_header_is_found(validate, dataset):
    path = pack(dataset) / "B-1_plate1.npy"
    flip(path, 100)
    code, out = validate()
    (line,) = problems(out)
    assert code == 1 and line.startswith(f"{path} has changed in its first 128 bytes; delete {path}")


def test_damaged_missing_and_odd_images_are_named(validate, dataset):
    damaged, missing, odd = (image_files(dataset, row) for row in (2, 7, 11))
    Path(damaged[1]).write_bytes(Path(damaged[1]).read_bytes()[:60])
    Path(missing[5]).unlink()
    for path in odd:
        Image.fromarray(np.arange(25, dtype=np.uint8).reshape(5, 5)).save(path)
    code, out = validate()
    assert code == 1 and "3 problems:\n" in out
    one, two, three = sorted(problems(out))
    assert one.startswith(f"{damaged[1]} cannot be read (")
    assert two.startswith(f"{missing[5]} cannot be read (") and two.endswith("restore this image")
    assert three == f"{odd[0]} has shape (6, 5, 5), others have (6, 4, 4); restore or convert it"


def test_an_image_overwritten_in_place_is_told_from_what_was_packed(validate, root, dataset):
    pack(dataset)
    path = Path(image_files(dataset, 0)[0])
    before = path.stat()
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0"))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, out = validate()
    assert code == 1 and problems(out) == [
        f"{path} is not what was packed; delete A-1_plate1.npy of the pack and run 'abra-wilds pack {root} "
        "--dataset rxrx1_6ch' again"
    ]


def test_blank_channels_are_counted_and_do_not_fail(validate, dataset):
    for row, stain in ((3, 2), (4, 2), (4, 6)):
        Image.fromarray(np.full((4, 4), 9, np.uint8)).save(image_files(dataset, row)[stain - 1])
    code, out = validate()
    first = image_files(dataset, 3)[0]
    said = f"blank channels: channel 2 in 2 images, channel 6 in 1 images, first {first}\n"
    assert code == 0 and said in out


def test_a_long_list_is_cut_and_its_length_told(validate, root):
    own_screen(root / "more", {f"A-{k}": "train" for k in range(1, 6)})
    for path in (root / "more").rglob("*_w1.png"):
        path.unlink()
    code, out = validate(where=root / "more")
    assert code == 1 and "\n30 problems:\n" in out
    assert len(problems(out)) == MOST_LINES + 1 and out.endswith(f"  and {30 - MOST_LINES} more\n")


def test_a_pack_without_its_image_files_is_enough(validate, root, dataset):
    pack(dataset)
    shutil.rmtree(root / "rxrx1" / "images")
    code, out = validate()
    assert code == 0 and "no image file is left beside the pack\npacked: 18 images" in out


def test_stale_and_unfinished_packs_are_problems(validate, root, dataset):
    pack(dataset)
    (pack(dataset, size=2) / INDEX).unlink()
    metadata = root / "rxrx1" / "metadata.csv"
    metadata.write_text(metadata.read_text().replace("treatment,2", "positive_control,2"))
    code, out = validate()
    stale, unfinished = sorted(problems(out), reverse=True)
    assert code == 1 and unfinished.startswith("/") and f"{metadata} is not what" in unfinished
    assert stale.startswith(
        f"there is no pack in {root}/rxrx1/packed_2, or an unfinished one; run 'abra-wilds pack "
        f"{root} --dataset rxrx1_6ch --size 2' again"
    )
    shrunk = root / "rxrx1" / "packed_2" / "A-2_plate1.npy"
    pack(dataset, size=2)
    flip(shrunk, shrunk.stat().st_size - 1)
    assert f"delete {shrunk} and run 'abra-wilds pack {root} --dataset rxrx1_6ch --size 2'" in validate()[1]


def test_a_pack_of_another_index_is_held_against_its_checksums(validate, dataset):
    path = pack(dataset) / INDEX
    index = json.loads(path.read_text())
    index["files"][1]["sha256"] = index["files"][0]["sha256"]
    path.write_text(json.dumps(index))
    code, out = validate()
    assert code == 1 and "A-2_plate1.npy has changed in its first 128 bytes" in out


def test_tables_that_cannot_be_used_are_a_problem_and_no_data_set_is_a_refusal(validate, root):
    path = root / "rxrx1" / "metadata.csv"
    path.write_text(path.read_text().replace("sirna_id", "sirna"))
    code, out = validate()
    assert code == 1 and out.startswith("1 problem:\n") and "lacks the columns sirna_id" in out
    assert validate(where=root / "nowhere")[0] == 2
    assert validate("--workers", "0")[0] == 2


def test_plates_numbered_by_barcode_are_a_problem(validate, root):
    path = root / "rxrx1" / "metadata.csv"
    pd.read_csv(path).assign(plate=20231).to_csv(path, index=False)
    for folder in (root / "rxrx1" / "images").iterdir():
        (folder / "Plate1").rename(folder / "Plate20231")
    code, out = validate()
    (line,) = problems(out)
    assert code == 1 and "of which 3 have images; number the plates of each experiment from 1" in line


@pytest.mark.slow
def test_two_processes_find_what_one_finds(validate, dataset):
    flip(pack(dataset) / "A-2_plate1.npy", 400)
    Path(image_files(dataset, 5)[0]).unlink()
    one = validate()
    assert one[0] == 1 and validate("--workers", "2") == one
