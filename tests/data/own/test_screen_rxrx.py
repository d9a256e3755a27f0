"""RxRx layouts as screens: splits as they stand; plates, classes, controls by name; RxRx1 stays as it is."""

import pandas as pd
import torch

from abra_wilds.data.datasets.catalogue import load_dataset
from abra_wilds.data.datasets.controls import control_rows
from abra_wilds.data.screens.screen import Screen
from tests.data.screens import own_screen

MARKS = {"A-1": "train", "A-2": "train", "A-3": "val", "A-4": "test", "B-1": "train"}


def test_val_is_val_and_every_site_of_training_trains(tmp_path):
    table = own_screen(tmp_path, MARKS)
    dataset = Screen.open(tmp_path).dataset()
    names = {number: name for name, number in dataset.split_dict.items()}
    assert [names[number] for number in dataset.split_array.tolist()] == table["dataset"].tolist()
    kept = load_dataset("rxrx1_6ch", tmp_path, split_scheme="official")
    assert set(kept.split_dict) == {"train", "test"}  # whose val stays folded into test
    for row in (0, 7, len(dataset) - 1):
        assert torch.equal(dataset.get_input(row), kept.get_input(row))
    assert len(load_dataset("rxrx1_6ch", tmp_path).split_dict) == 4


def test_classes_lines_and_controls_have_their_names(tmp_path):
    path = tmp_path / "rxrx1" / "metadata.csv"
    table = own_screen(tmp_path, MARKS)
    dataset = Screen.open(tmp_path / "rxrx1").dataset()
    assert dataset.class_names == ["0", "1", "2"] and dataset.channels[0] == "Hoechst"
    assert dataset.metadata_map["cell_type"] == ["A", "B"]
    assert (control_rows(dataset, "negative") == (table["well_type"] == "negative_control")).all()
    table["sirna"] = table["sirna_id"].map({0: "EMPTY", 1: "s1", 2: "s2"})
    table.to_csv(path, index=False)
    assert Screen.open(tmp_path).dataset().class_names == ["EMPTY", "s1", "s2"]
    table["sirna"] = "same"
    table.to_csv(path, index=False)
    assert Screen.open(tmp_path).dataset().class_names == ["0", "1", "2"]
    assert pd.read_csv(path)["sirna"].nunique() == 1


def test_screens_of_few_and_many_stains_have_channels_by_name_or_number(tmp_path):
    own_screen(tmp_path / "few", MARKS, stains=2)
    own_screen(tmp_path / "many", MARKS, stains=7)
    assert Screen.open(tmp_path / "few").sites.channels == ("Hoechst", "ConA")
    assert Screen.open(tmp_path / "many").sites.channels == tuple("1234567")
