"""Facts about a screen are read from all of it: what plates lack and hold besides, and how much there is."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from abra_wilds import run_config
from abra_wilds.__main__ import main
from abra_wilds.data.datasets import counts as counted
from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.datasets.counts import data_lines, held_out, split_rows
from abra_wilds.engine.artifacts.checkpoint import Progress
from abra_wilds.engine.dry_run import dry_run
from abra_wilds.engine.fit import opening
from abra_wilds.engine.setup import prepare
from tests import runs
from tests.data.datasets.test_catalogue import refused
from tests.data.screens import as_competition, own_screen

MARKS = {"A-1": "train", "A-2": "train", "A-3": "test", "A-4": "test"}


@pytest.fixture
def root(tmp_path):
    """A root_dir of four plates of three wells, two sites and three stains of 4 x 4."""
    own_screen(tmp_path, MARKS, stains=3)
    return tmp_path


@pytest.fixture
def folder(root):
    return root / "rxrx1"


@pytest.fixture
def run(root):
    """The configuration of a run on it."""
    changes = {"dataset": "rxrx1_6ch", "split_scheme": "official", "groupby_fields": ["experiment"]}
    changes |= {"batch_size": 4, "target_resolution": 32}
    return run_config("ERM", **runs.settings(root, root / "run", "ERM", **changes))


def load(root):
    return load_dataset("rxrx1_6ch", root, split_scheme="official")


def plate(folder, experiment, top="images"):
    return folder / top / experiment / "Plate1"


def validated(root, capsys):
    """Exit code and lines of `abra-wilds validate`."""
    code = main(["validate", str(root), "--workers", "1"])
    return code, [line.strip() for line in capsys.readouterr().out.splitlines()]


# What is not whole


@pytest.mark.parametrize("experiment", ["A-1", "A-3", "A-4"])
@pytest.mark.parametrize("stain", [1, 3])
def test_a_plate_without_a_stain_that_others_have_is_refused_wherever_it_is(root, folder, experiment, stain):
    for path in plate(folder, experiment).glob(f"*_w{stain}.png"):
        path.unlink()
    other = "A-2" if experiment == "A-1" else "A-1"
    refused(
        rf"{plate(folder, experiment)} .*stain {stain} \(\*_w{stain}.png\).* 3 of 4 plates .*{other}/Plate1;",
        load, root,
    )  # fmt: skip


def test_a_plate_without_a_site_that_others_have_is_refused_where_no_table_says_its_sites(root, folder):
    as_competition(folder)
    for path in plate(folder, "A-1", "train").glob("*_s2_*"):
        path.unlink()
    refused(rf"{plate(folder, 'A-1', 'train')} .*site 2 .* 3 of 4 plates .*train/A-2/Plate1", load, root)


def test_plates_without_any_image_are_not_counted(root, folder):
    shutil.rmtree(plate(folder, "A-1"))
    assert len(load(root).suffixes) == 3


def test_the_command_refuses_what_is_not_whole_and_validate_finds_it(root, folder, run, capsys):
    for path in plate(folder, "A-2").glob("*_w2.png"):
        path.unlink()
    named = f"{plate(folder, 'A-2')} has no image of stain 2"
    assert named in refused("stain 2", prepare, run)
    code, lines = validated(root, capsys)
    assert code == 1 and lines[0] == "1 problem:" and lines[1].startswith(named)


@pytest.mark.parametrize("experiment", ["A-3", "A-1"])
def test_another_size_in_one_split_alone_is_refused_at_the_start_and_found_by_validate(
    root, folder, run, capsys, experiment
):
    split = ("A-3", "A-4") if experiment == "A-3" else ("A-1", "A-2")
    for name in split:
        for path in plate(folder, name).iterdir():
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    refused(r"_w1.png has shape \(3, [48], [48]\) and .*_w1.png has \(3, [48], [48]\)", prepare, run)
    code, lines = validated(root, capsys)
    wrong = ("A-3", "A-4")  # the first image of all is of A-1
    found = [line for line in lines if "has shape" in line]
    assert (
        code == 1 and len(found) == 12 and all(any(f"/{name}/" in line for name in wrong) for line in found)
    )


# What lies there besides


def put(path, like):
    """A copy of an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(like, path)


def test_files_without_a_row_are_said_and_decide_nothing(root, folder, run, capsys):
    a = plate(folder, "A-1")
    image = a / "B02_s1_w1.png"
    before = load(root)
    for name in ("X99_s1_w9.png", "B02_s7_w1.png", "B02_s1_w01.png"):
        put(a / name, image)
    (plate(folder, "A-4") / "notes.txt").write_text("x")
    for name in (".DS_Store", "Thumbs.db", "._B02_s1_w1.png"):
        (a / name).write_text("x")
    put(folder / "images" / "Z-9" / "Plate3" / "B02_s1_w1.png", image)
    found = load(root)
    assert found.suffixes == before.suffixes and found._input_array.tolist() == before._input_array.tolist()
    table = folder / "metadata.csv"
    notes = (
        f"image files that belong to no row of {table} and are not read: 3, first {a}/B02_s1_w01.png",
        f"other files in folders of plates that belong to no row of {table} and are not read: 1, first "
        f"{plate(folder, 'A-4')}/notes.txt",
        f"folders of plates that belong to no row of {table} and are not read: 1, first "
        f"{folder}/images/Z-9/Plate3",
    )
    assert found.notes == notes
    code, lines = validated(root, capsys)
    log = opening(run, prepare(run), Progress()).splitlines()
    shown = dry_run(run).splitlines()
    for said in (lines, log, shown):
        assert [line for line in said if line.startswith("note: ")] == [f"note: {note}" for note in notes]
    assert code == 0


def test_files_without_a_row_are_said_of_three_channels_too(copied_root):
    folder = copied_root / "rxrx1_v1.0"
    path = next((folder / "images").glob("*/Plate1/*_s1.png"))
    put(path.with_name("X99_s1.png"), path)
    (note,) = load_dataset("rxrx1", copied_root).notes
    assert note.startswith("image files that") and note.endswith(f": 1, first {path.parent}/X99_s1.png")


def test_classes_that_test_alone_has_are_said(root, folder, run, capsys):
    path = folder / "metadata.csv"
    rows = pd.read_csv(path)
    new = (rows["experiment"] == "A-4") & (rows["sirna_id"] == 2)
    rows["sirna_id"] = rows["sirna_id"].mask(new, 3)
    rows.to_csv(path, index=False)
    note = "note: classes of test that train lacks: 1, namely 3"
    code, lines = validated(root, capsys)
    assert code == 0 and note in lines
    assert note in opening(run, prepare(run), Progress()).splitlines() and note in dry_run(run).splitlines()


# Equal pixels


def test_equal_pixels_in_train_and_test_are_found_by_validate(root, folder, capsys):
    for stain in (1, 2, 3):
        source = plate(folder, "A-2") / f"B03_s1_w{stain}.png"
        # Other bytes of the same pixels, which a digest of files would not find.
        Image.open(source).save(plate(folder, "A-4") / f"B04_s2_w{stain}.png", compress_level=0)
        shutil.copy(source, plate(folder, "A-1") / source.name)  # inside train, which is no leak
        for name in ("A-1", "A-3"):
            Image.fromarray(np.full((4, 4), 9, np.uint8)).save(plate(folder, name) / f"B02_s1_w{stain}.png")
    code, lines = validated(root, capsys)
    assert code == 1 and "1 problem:" in lines
    tested, trained = plate(folder, "A-4") / "B04_s2_w1.png", plate(folder, "A-1") / "B03_s1_w1.png"
    assert lines[-1].startswith(f"{tested} of test has the pixels of {trained} of train; ")


# How much there is


def test_splits_are_counted_as_the_table_says_and_uneven_plates_and_wells_are_seen(
    root, folder, run, monkeypatch
):
    path = folder / "metadata.csv"
    rows = pd.read_csv(path).drop(index=[3, 20]).query("experiment != 'A-3' or well != 'B03'")
    rows.to_csv(path, index=False)
    found = load(root)
    lines = data_lines(found, split_rows(found))
    assert lines[0] == "3 stains in every plate" and len(lines) == 4
    tested = rows.loc[rows["dataset"] == "test", "experiment"].unique()
    assert lines[2] == f"experiments of test: {', '.join(tested)}"
    head, *table = [line.split("  ") for line in lines[1].splitlines()]
    assert [cell.strip() for cell in head if cell] == [
        "split", "images", "experiments", "plates", "wells", "classes", "sites a well", "images a plate"
    ]  # fmt: skip
    for split, cells in zip(("train", "test"), table, strict=True):
        own = rows[rows["dataset"] == split]
        wells, plates = (
            own.groupby(keys).size() for keys in (["experiment", "plate", "well"], ["experiment"])
        )
        spread = [f"{n.min()} to {n.max()}" if n.min() < n.max() else f"{n.min()}" for n in (wells, plates)]
        counts = [len(own), own["experiment"].nunique(), len(plates), len(wells), own["sirna_id"].nunique()]
        assert [cell.strip() for cell in cells if cell.strip()] == [split, *map(str, counts), *spread]
    assert lines[1] in opening(run, prepare(run), Progress()) and lines[1] in dry_run(run)
    monkeypatch.setattr(counted, "MOST_NAMES", 0)
    assert held_out(found, split_rows(found)) == [f"experiments of test: {len(tested)} more"]
