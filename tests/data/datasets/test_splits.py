"""Split schemes of six-channel screens: who trains, and that nobody trains on a test experiment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from abra_wilds.config.datasets import SPLIT_SCHEMES
from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.datasets.splits import SCHEMES, SPLIT_NUMBERS, split_array
from tests.data.datasets import full_metadata
from tests.data.datasets.test_catalogue import refused
from tests.data.screens import own_screen

PATH = Path("metadata.csv")
LINES = ("HEPG2", "HUVEC", "RPE", "U2OS")
TABLE_1 = {"train": (7, 16, 7, 3), "test": (4, 8, 4, 2)}


def screen(marks, sites=(1, 2)):
    """A frame of one well an experiment."""
    rows = [(name.split("-")[0], name, mark, site) for name, mark in marks.items() for site in sites]
    return pd.DataFrame(rows, columns=["cell_type", "experiment", "dataset", "site"])


def by_split(rows, scheme):
    """{split: {(experiment, site)}} of the splits that have any."""
    names = {number: split for split, (number, _) in SPLIT_NUMBERS.items()}
    found = {}
    for number, name, site in zip(
        split_array(rows, scheme, PATH), rows["experiment"], rows["site"], strict=True
    ):
        found.setdefault(names[int(number)], set()).add((name, site))
    return found


def both(*names, sites=(1, 2)):
    return {(name, site) for name in names for site in sites}


MARKS = {
    "A-1": "train", "A-9": "train", "A-10": "train", "A-11": "test", "A-12": "test",
    "B-2": "train", "B-1": "train", "B-10": "test", "B-9": "test",
}  # fmt: skip


def test_the_schemes_are_those_of_the_flag():
    assert SPLIT_SCHEMES["rxrx1_6ch"] == SCHEMES
    refused(
        "unknown split_scheme 'mine'; choose one of wilds, official, heldout", split_array, None, "mine", PATH
    )


def test_heldout_validates_on_the_last_training_experiment_of_each_line_by_number():
    assert by_split(screen(MARKS), "heldout") == {
        "train": both("A-1", "A-9", "B-1"),
        "val": both("A-10", "B-2"),
        "test": both("A-11", "A-12", "B-9", "B-10"),
    }


def test_wilds_validates_on_the_first_test_experiment_by_number():
    found = by_split(screen(MARKS), "wilds")
    assert found["val"] == both("A-11", "B-9") and found["test"] == both("A-12", "B-10")


@pytest.mark.parametrize(
    ("sites", "train", "id_test"), [((1,), (1,), None), ((1, 2, 3), (1, 2), (3,)), ((2,), (2,), None)]
)
def test_of_several_sites_the_last_is_id_test_and_of_one_none(sites, train, id_test):
    found = by_split(screen(MARKS, sites), "wilds")
    named = ("A-1", "A-9", "A-10", "B-1", "B-2")
    assert found["train"] == both(*named, sites=train)
    assert found.get("id_test") == (id_test and both(*named, sites=id_test))
    assert found["val"] == both("A-11", "B-9", sites=sites)


def test_rows_marked_val_are_test_in_official_and_heldout():
    marked = screen({**MARKS, "A-11": "val", "B-10": "val"})
    for scheme in ("official", "heldout"):
        assert by_split(marked, scheme) == by_split(screen(MARKS), scheme)


def test_a_line_with_one_training_experiment_has_nothing_to_hold_out():
    marks = {name: mark for name, mark in MARKS.items() if name != "B-2"}
    refused(
        "metadata.csv .*one of B; .*--split_scheme official",
        split_array, screen(marks), "heldout", PATH,
    )  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("mark", ["test", "val"])
def test_an_experiment_that_trains_and_tests_is_refused(scheme, mark):
    rows = screen(MARKS)
    rows.loc[1, "dataset"] = mark
    refused("A-1 as train .*1 exp", split_array, rows,
            scheme, PATH)  # fmt: skip


def test_a_screen_of_one_site_has_no_id_test(tmp_path):
    own_screen(tmp_path, {name: MARKS[name] for name in ("A-1", "A-9", "A-11", "A-12")}, sites=(1,), stains=2)
    found = {s: load_dataset("rxrx1_6ch", tmp_path, split_scheme=s) for s in SCHEMES}
    assert {s: list(d.split_dict) for s, d in found.items()} == {
        "wilds": ["train", "val", "test"],
        "official": ["train", "test"],
        "heldout": ["train", "val", "test"],
    }
    assert all(d.split_names.keys() == d.split_dict.keys() for d in found.values())


@pytest.fixture(scope="module")
def full():
    """The rows of the research release, which marks no val."""
    full_metadata.needed()
    rows = full_metadata.full_metadata()
    return rows.assign(dataset=rows["dataset"].replace("val", "test"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_scheme_trains_on_an_image_of_a_test_experiment(full, scheme):
    split = split_array(full, scheme, PATH)
    learned = [
        SPLIT_NUMBERS["train"][0],
        SPLIT_NUMBERS["id_test"][0],
        *([SPLIT_NUMBERS["val"][0]] if scheme == "heldout" else []),
    ]
    tested = full["dataset"] == "test"
    assert not np.isin(split[tested], learned).any() and np.isin(split[~tested], learned).all()


def test_heldout_of_the_real_screen_is_table_1_less_one_experiment_a_line(full):
    number = pd.Series(split_array(full, "heldout", PATH), index=full.index)
    named = {s: full.loc[number == SPLIT_NUMBERS[s][0], "experiment"] for s in ("train", "val", "test")}
    per_line = {
        s: tuple(sum(name.startswith(line) for name in found.unique()) for line in LINES)
        for s, found in named.items()
    }
    assert set(named["val"]) == {"HEPG2-07", "HUVEC-16", "RPE-07", "U2OS-03"}
    assert per_line == {
        "train": tuple(n - 1 for n in TABLE_1["train"]),
        "val": (1,) * 4,
        "test": TABLE_1["test"],
    }
    assert (len(named["train"]) + len(named["val"]), len(named["test"])) == (81_224, 44_286)
    assert set(full.loc[number == SPLIT_NUMBERS["val"][0], "site"]) == {1, 2}
