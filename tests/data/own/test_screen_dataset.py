"""A screen as a data set: names for bio-batches, plates, classes and wells, and what is left out of it."""

import numpy as np
import pytest
import torch

from abra_wilds.data.datasets.catalogue import class_names, data_digest, described, make_grouper
from abra_wilds.data.datasets.controls import control_rows
from abra_wilds.data.datasets.counts import class_notes, data_lines, split_rows
from abra_wilds.data.screens.screen import Screen
from abra_wilds.errors import InputError
from tests.data.own.own_tables import BATCHES, small_rows, write_screen, write_table

FLAGS = {"label_column": "Metadata_Drug", "split": ["test=0.25", "val=0.25"]}


def opened(folder, rows=None, **flags):
    table = write_table(folder, small_rows() if rows is None else rows)
    return Screen.open(table, **{**FLAGS, **flags}).dataset()


def named(dataset, field, row=0):
    code = int(dataset.metadata_array[row, list(dataset.metadata_fields).index(field)])
    return dataset.metadata_map[field][code]


def test_fields_carry_the_names_of_the_table(tmp_path):
    dataset, rows = opened(tmp_path), small_rows()
    for row in (0, 17, 47):
        for field, column in (
            ("experiment", "Batch"),
            ("plate", "Plate"),
            ("well", "Well"),
            ("site", "Site"),
        ):
            assert named(dataset, field, row) == rows[f"Metadata_{column}"][row]
        assert dataset.class_names[dataset.y_array[row]] == rows["Metadata_Drug"][row]
    assert dataset.class_names == ["DMSO", "nocodazole", "taxol"] == class_names(dataset, 3)
    assert named(dataset, "cell_type") == "all" and dataset.n_classes == 3


def test_rows_are_found_by_the_names_of_their_images(tmp_path):
    dataset = opened(tmp_path, small_rows().sample(frac=1, random_state=0))
    names = dataset._input_array.tolist()
    assert dataset.rows_named([names[5], "images/none.png", names[0], "zzz", ""]) == [5, -1, 0, -1, -1]


def test_a_bio_batch_of_several_columns_has_their_joined_names(tmp_path):
    dataset = opened(tmp_path, bio_batch_columns=["Metadata_Batch", "Metadata_Plate"])
    assert named(dataset, "experiment") == f"{BATCHES[0]}__{BATCHES[0]}_000"
    assert len(dataset.metadata_map["experiment"]) == 8
    rows = small_rows()
    rows["A"], rows["B"] = "a__b", "c"
    rows.loc[:5, ["A", "B"]] = "a", "b__c"
    with pytest.raises(InputError, match="look the same"):
        opened(tmp_path, rows, bio_batch_columns=["A", "B"])


def test_bio_batches_of_any_fields_are_numbered_without_gaps(tmp_path):
    rows = small_rows(tuple(f"b{k:02}" for k in range(40)))
    dataset = opened(tmp_path, rows)
    grouper = make_grouper(dataset, ["plate", "experiment"])
    g = grouper.metadata_to_group(dataset.metadata_array)
    assert grouper.n_groups == 80 and g.unique().tolist() == list(range(80))
    of = {
        (batch, plate): int(k)
        for batch, plate, k in zip(rows["Metadata_Batch"], rows["Metadata_Plate"], g, strict=True)
    }
    assert len(of) == len(set(of.values())) == 80
    for (batch, plate), k in of.items():
        assert grouper.group_str(k) == f"experiment = {batch}, plate = {plate}"
        assert grouper.group_field_str(k) == f"experiment:{batch}_plate:{plate}"
    counts = grouper.metadata_to_group(dataset.metadata_array, return_counts=True)[1]
    assert counts.tolist() == [6] * 80


def test_images_without_a_class_are_in_no_split_and_counted(tmp_path):
    rows = small_rows()
    rows.loc[[0, 1], "Metadata_Drug"] = ""
    dataset = opened(tmp_path, rows)
    assert dataset.y_array[:2].tolist() == [-1, -1] and dataset.split_array[:2].tolist() == [-1, -1]
    assert dataset.class_names == ["DMSO", "nocodazole", "taxol"]
    assert any("2 of 48 images have no class" in line for line in data_lines(dataset, split_rows(dataset)))


def test_rare_classes_and_small_bio_batches_are_left_out_of_training(tmp_path):
    rows = small_rows()
    rows.loc[[0, 12, 24, 36], "Metadata_Drug"] = "rare"  # one in each bio-batch, two of which train
    dataset = opened(tmp_path, rows, least_per_class=3)
    assert "rare" not in dataset.class_names and "fewer than 3 training images (rare)" in dataset.notes[0]
    assert dataset.split_array[[0, 12, 24, 36]].tolist() == [-1] * 4
    assert "rare" in opened(tmp_path, rows).class_names
    rows = small_rows((*BATCHES, "lonely")).iloc[:49]
    rows["Metadata_Split"] = rows["Metadata_Batch"].map({BATCHES[0]: "test"}).fillna("train")
    dataset = opened(tmp_path, rows, split=())
    assert dataset.split_array[48] == -1 and "fewer than 2 images" in dataset.notes[0]
    assert opened(tmp_path, rows, split=(), least_per_bio_batch=1).split_array[48] == 0


def test_a_class_that_only_test_has_is_said_by_name(tmp_path):
    rows = small_rows()
    rows["Metadata_Split"] = rows["Metadata_Batch"].map({BATCHES[0]: "test"}).fillna("train")
    rows.loc[3, "Metadata_Drug"] = "new"
    dataset = opened(tmp_path, rows, split=())
    assert class_notes(dataset, split_rows(dataset)) == ["classes of test that train lacks: 1, namely new"]


def test_controls_are_known_by_their_values(tmp_path):
    rows = small_rows()
    negative = control_rows(
        opened(tmp_path, control_column="Metadata_Drug", controls="negative=DMSO"), "negative"
    )
    assert (negative == (rows["Metadata_Drug"] == "DMSO")).all()
    kinds = {"DMSO": "negcon", "taxol": "poscon_cp", "nocodazole": "trt"}
    rows["Metadata_pert_type"] = rows["Metadata_Drug"].map(kinds)
    dataset = opened(tmp_path, rows)
    assert (control_rows(dataset, "positive") == (rows["Metadata_Drug"] == "taxol")).all()
    assert [dataset.class_names[k] for k in dataset.treatments] == ["nocodazole"]
    with pytest.raises(InputError, match="'dmso'"):
        opened(tmp_path, control_column="Metadata_Drug", controls="negative=dmso")
    with pytest.raises(InputError, match="--controls"):
        opened(tmp_path, controls="other=DMSO")


def test_wells_of_several_classes_have_no_scores_of_wells(tmp_path):
    rows = small_rows()
    assert opened(tmp_path, rows).treatments is None
    rows.loc[0, "Metadata_Drug"] = "taxol"
    assert not hasattr(opened(tmp_path, rows), "treatments")


def test_a_model_gives_the_order_of_classes(tmp_path):
    screen = Screen.open(write_table(tmp_path, small_rows()), label_column="Metadata_Drug")
    dataset = screen.dataset(["taxol", "other", "DMSO", "nocodazole"], labelled=False)
    assert dataset.y_array[:6].tolist() == [2, 2, 0, 0, 3, 3] and dataset.n_classes == 4


def test_the_digest_is_of_table_and_settings_and_not_of_places(tmp_path):
    digests = [data_digest(opened(tmp_path / name)) for name in ("here", "there")]
    assert digests[0] == digests[1]
    rows = small_rows()
    rows.loc[0, "Metadata_Drug"] = "taxol"
    others = [
        data_digest(opened(tmp_path / "other", rows)),
        data_digest(opened(tmp_path / "here", split=["test=0.25", "val=0.25", "seed=1"])),
        data_digest(opened(tmp_path / "here", channels=["ER"])),
        data_digest(opened(tmp_path / "here", least_per_class=1)),
    ]
    assert len({digests[0], *others}) == 5


def test_a_model_learns_names_of_classes_channels_and_bio_batches(tmp_path):
    dataset = Screen.open(write_screen(tmp_path), channels=["Nuclei=DNA"], **FLAGS).dataset()
    found = described(dataset, ["experiment"])
    assert found["classes"] == ["DMSO", "nocodazole", "taxol"] and found["channels"] == ["Nuclei"]
    assert (found["name"], found["image_size"], found["simulated"]) == ("screen", [8, 8], False)


def test_accuracy_is_by_cell_line(tmp_path):
    rows = small_rows()
    rows["Metadata_Cell_Line"] = np.where(rows["Metadata_Well"] == "A01", "293", "U2OS")
    dataset = opened(tmp_path, rows)
    y = dataset.y_array
    wrong = torch.where(dataset.metadata_array[:, 0] == 0, y, (y + 1) % 3)
    results, _ = dataset.eval(wrong, y, dataset.metadata_array)
    assert results["acc_cell_type:293"] == 1 and results["acc_cell_type:U2OS"] == 0
    assert results["acc_avg"] == pytest.approx(1 / 3)
