"""Splits of a screen: as its table says them, or drawn over whole bio-batches."""

import numpy as np
import pytest

from abra_wilds.config.screen import ScreenConfig
from abra_wilds.data.screens.screen import Screen
from abra_wilds.errors import InputError
from tests.data.own.own_tables import BATCHES, SHARED, small_rows, write_table


def opened(folder, rows=None, **flags):
    """A labelled data set of a table without images."""
    table = write_table(folder, small_rows() if rows is None else rows)
    return Screen.open(table, **{"label_column": "Metadata_Drug", **flags}).dataset()


def split_of(dataset, column):
    """Value of a column -> the splits of its rows."""
    names = {number: name for name, number in dataset.split_dict.items()}
    found = {}
    for value, number in zip(dataset.sites.rows[column], dataset.split_array.tolist(), strict=True):
        found.setdefault(value, set()).add(names.get(number))
    return found


def refusal(folder, rows=None, **flags):
    with pytest.raises(InputError) as caught:
        opened(folder, rows, **flags)
    return str(caught.value)


def marked(marks):
    """The rows with a split a batch."""
    rows = small_rows()
    rows["Metadata_Split"] = rows["Metadata_Batch"].map(dict(zip(BATCHES, marks, strict=True)))
    return rows


def test_a_column_says_splits_as_they_stand_and_val_is_val(tmp_path):
    dataset = opened(tmp_path, marked(["train", "val", "test", ""]))
    assert split_of(dataset, "Metadata_Batch") == dict(
        zip(BATCHES, [{"train"}, {"val"}, {"test"}, {None}], strict=True)
    )
    assert set(dataset.split_dict) == {"train", "val", "test"}
    assert set(opened(tmp_path, marked(["train", "train", "test", "test"])).split_dict) == {"train", "test"}


def test_drawn_splits_take_whole_bio_batches_by_seed_whatever_the_order_of_rows(tmp_path):
    rows, flags = small_rows(tuple(f"b{k}" for k in range(10))), {"split": ["test=0.3", "val=0.2", "seed=4"]}
    found = split_of(opened(tmp_path, rows, **flags), "Metadata_Batch")
    counts = {name: sum(own == {name} for own in found.values()) for name in ("train", "val", "test")}
    assert counts == {"train": 5, "val": 2, "test": 3}
    shuffled = rows.sample(frac=1, random_state=1)
    assert split_of(opened(tmp_path, shuffled, **flags), "Metadata_Batch") == found
    others = [
        split_of(opened(tmp_path, rows, split=["test=0.3", "val=0.2", f"seed={s}"]), "Metadata_Batch")
        for s in range(5)
    ]
    assert sum(other != found for other in others) >= 3


def test_coarser_columns_and_what_is_kept_together_join_bio_batches(tmp_path):
    rows = small_rows(tuple(f"b{k}" for k in range(8)))
    rows["Metadata_Year"] = rows["Metadata_Batch"].map(lambda name: f"y{int(name[1:]) // 2}")
    for seed in range(4):
        split = ["by=Metadata_Year", "test=0.25", f"seed={seed}"]
        found = split_of(opened(tmp_path, rows, split=split), "Metadata_Year")
        assert sorted(map(sorted, found.values())) == [["test"], ["train"], ["train"], ["train"]]
    rows["Metadata_Frame"] = ""
    rows.loc[rows["Metadata_Batch"].isin(["b0", "b7"]) & (rows["Metadata_Site"] == "1"), "Metadata_Frame"] = (
        "f"
    )
    for seed in range(4):
        dataset = opened(tmp_path, rows, split=["test=0.3", f"seed={seed}"], keep_together="Metadata_Frame")
        found = split_of(dataset, "Metadata_Batch")
        assert found["b0"] == found["b7"] and len(found["b0"]) == 1


def test_one_bio_batch_is_left_out_and_others_may_validate(tmp_path):
    found = split_of(opened(tmp_path, split=[f"leave_one_out={BATCHES[2]}", "val=0.25"]), "Metadata_Batch")
    assert found.pop(BATCHES[2]) == {"test"}
    assert sorted(map(sorted, found.values())) == [["train"], ["train"], ["val"]]
    assert "no bio-batch" in refusal(tmp_path, split=["leave_one_out=nobody"])


def test_folds_test_every_bio_batch_once_and_each_validates_on_others(tmp_path):
    rows, validating = small_rows(tuple(f"b{k}" for k in range(10))), []
    tested = []
    for k in range(1, 5):
        found = split_of(opened(tmp_path, rows, split=[f"fold={k}/4", "val=0.2", "seed=3"]), "Metadata_Batch")
        of = {
            name: sorted(batch for batch, own in found.items() if own == {name})
            for name in ("train", "val", "test")
        }
        assert sum(map(len, of.values())) == 10 and len(of["val"]) == 2
        tested += of["test"]
        validating += of["val"]
    assert sorted(tested) == sorted(set(rows["Metadata_Batch"])) and len(set(validating)) > 2
    assert "at most 4" in refusal(tmp_path, split=["fold=1/5"])


def test_in_distribution_images_are_whole_wells_or_groups_of_training_bio_batches(tmp_path):
    dataset = opened(tmp_path, split=["test=0.25", "id_test=0.2"])
    by_batch = list(split_of(dataset, "Metadata_Batch").values())
    assert sorted(map(sorted, by_batch)).count(["test"]) == 1 and {"train", "id_test"} in by_batch
    wells = dataset.sites.rows["Metadata_Plate"] + dataset.sites.rows["Metadata_Well"]
    ours = wells[dataset.split_array == dataset.split_dict["id_test"]]
    assert set(ours).isdisjoint(wells[dataset.split_array == 0]) and ours.nunique() == round(0.2 * 18)


def test_a_bio_batch_or_frame_in_two_splits_is_refused_with_both_lines(tmp_path):
    rows = marked(["train", "val", "test", "test"])
    rows.loc[5, "Metadata_Split"] = "test"
    said = refusal(tmp_path, rows)
    assert f"bio-batch {BATCHES[0]} is train in line 2" in said and "test in line 7" in said
    rows = marked(["train", "val", "test", "test"])
    rows["Metadata_Frame"] = [f"f{k}" for k in range(len(rows))]
    rows.loc[[0, 30], "Metadata_Frame"] = "shared"
    assert len(opened(tmp_path, rows)) == 48
    said = refusal(tmp_path, rows, keep_together="Metadata_Frame")
    assert "Metadata_Frame shared is train in line 2" in said and "test in line 32" in said
    assert "'valid' in line 14" in refusal(tmp_path, marked(["train", "valid", "test", "test"]))


def test_what_cannot_be_trained_on_is_refused(tmp_path):
    assert "--split" in refusal(tmp_path)
    assert "--label_column" in refusal(tmp_path, label_column=None, split=["test=0.2"])
    assert "marked as train" in refusal(tmp_path, marked(["val", "val", "test", "test"]))
    assert "leaves no bio-batch" in refusal(tmp_path, small_rows(("a", "b")), split=["test=0.5", "val=0.4"])


@pytest.mark.parametrize(
    "split",
    [
        *("test=0.5 val=0.5", "test=x", "val=0.1", "test=0.1 leave_one_out=a", "test=0.1 test=0.2"),
        *("seed=1.5 test=0.1", "train=0.5", "test", "test=0"),
        *("fold=0/4", "fold=5/4", "fold=1/1", "fold=1", "fold=1/4 test=0.1", "fold=1/4 leave_one_out=a"),
    ],
)
def test_a_split_that_is_none_is_refused(split):
    with pytest.raises(InputError, match="--split"):
        ScreenConfig(screen="x", split=tuple(split.split()))


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/real is not here")
def test_frames_of_mitocheck_are_never_split():
    split = ["test=0.2", "val=0.1", "id_test=0.1"]
    dataset = Screen.open(
        SHARED / "mitocheck" / "load_data.csv",
        label_column="Metadata_Phenotype",
        keep_together="Metadata_Frame",
        split=split,
    ).dataset()
    assert all(len(own) == 1 for own in split_of(dataset, "Metadata_Frame").values())
    dates = split_of(dataset, "Metadata_Batch")
    assert sum(own == {"test"} for own in dates.values()) == round(0.2 * 43)
    assert all(len(own - {"id_test"}) == 1 for own in dates.values())
    assert np.isin(dataset.split_array, list(dataset.split_dict.values())).all()
