"""Loading WILDS' rxrx1: what is refused, what is found, and the full size."""

from __future__ import annotations

import json
import resource
import time
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from abra_wilds.data.datasets.catalogue import (
    data_info,
    is_simulated,
    load_dataset,
    make_grouper,
    split_subset,
)
from abra_wilds.data.reading.images import check_images, image_path, read_image
from abra_wilds.data.samplers.batches import PlateSampler
from abra_wilds.types import InputError
from tests.data.datasets import full_metadata


def refused(match, act, *args, **kwargs):
    """The sentence of the InputError, which must be one line."""
    with pytest.raises(InputError, match=match) as caught:
        act(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tiny_data_set_has_the_official_splits(dataset):
    sizes = {split: len(split_subset(dataset, split)) for split in dataset.split_dict}
    assert sizes == {"train": 256, "id_test": 256, "val": 256, "test": 256}


def test_unknown_dataset_is_named(tmp_path):
    refused("unknown dataset 'poverty'; choose one of rxrx1", load_dataset, "poverty", tmp_path)


def test_unknown_version_is_named(sim_root):
    refused("unknown version '2.0' of rxrx1; choose one of 1.0", load_dataset, "rxrx1", sim_root, "2.0")


def test_unknown_split_scheme_is_named(sim_root):
    refused(
        "unknown split_scheme 'formal' of rxrx1; choose one of official, mixed-to-test",
        load_dataset, "rxrx1", sim_root, split_scheme="formal",
    )  # fmt: skip


def test_missing_folder_says_what_to_do_and_makes_nothing(tmp_path):
    root = tmp_path / "nowhere"
    refused(
        f"there is no data set in .*'abra-wilds fetch rxrx1 {root}'.*'abra-wilds simulate {root}'",
        load_dataset,
        "rxrx1",
        root,
    )
    assert not root.exists()


def test_missing_metadata_says_what_to_do(tmp_path):
    (tmp_path / "rxrx1_v1.0").mkdir()
    refused("metadata.csv; get it", load_dataset, "rxrx1", tmp_path)


def test_missing_release_file_is_named(edited_root):
    root = edited_root(lambda rows: rows)
    (root / "rxrx1_v1.0" / "RELEASE_v1.0.txt").unlink()
    refused("RELEASE_v1.0.txt", load_dataset, "rxrx1", root)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b'a,b\n"x\n'])
def test_a_file_that_is_no_table_is_refused(edited_root, content):
    root = edited_root(lambda rows: rows)
    (root / "rxrx1_v1.0" / "metadata.csv").write_bytes(content)
    refused("metadata.csv", load_dataset, "rxrx1", root)


BAD = {
    "missing column": (
        lambda d: d.rename(columns={"sirna_id": "sirna_ids"}),
        "columns sirna_id .*sirna_ids",
    ),
    "missing columns": (lambda d: d.drop(columns=["plate", "well"]), "columns well.*, plate"),
    "no row": (lambda d: d[:0], "no rows"),
    "gap in labels": (lambda d: d[d.sirna_id != 3], "sirna_id .*0 to 8 .*no row has 3;"),
    "labels from 1": (lambda d: d.assign(sirna_id=d.sirna_id + 1), "no row has 0;"),
    "one class": (lambda d: d.assign(sirna_id=0), "sirna_id 0; .*two classes"),
    "label without number": (
        lambda d: d.assign(sirna_id=d.sirna_id.astype(object).where(d.index != 4, "s3")),
        "column sirna_id .*line 6 has 's3', and 1 of 1,024",
    ),
    "label missing": (
        lambda d: d.assign(sirna_id=d.sirna_id.astype(float).where(d.index != 0)),
        "column sirna_id .*; line 2 has nothing",
    ),
    "label with a fraction": (lambda d: d.assign(sirna_id=d.sirna_id + 0.5), "column sirna_id .* has '8.5'"),
    "labels as floats": (lambda d: d.assign(sirna_id=d.sirna_id * 1.0), "column sirna_id of .* has '8.0'"),
    "plate as text": (lambda d: d.assign(plate="P" + d.plate.astype(str)), "column plate .* has 'P1'"),
    "plate from 0": (lambda d: d.assign(plate=d.plate - 1), "column plate .* at least 1; line 2 has '0'"),
    "site as text": (lambda d: d.assign(site="s" + d.site.astype(str)), "column site .* line 2 has 's1'"),
    "a control character before a number": (
        lambda d: d.assign(site="\x1c" + d.site.astype(str)),
        r"column site .* line 2 has '\\x1c1'",
    ),
    "unknown split": (
        lambda d: d.assign(dataset=d.dataset.replace("val", "valid")),
        "column dataset .*train, val, test; line 130 has 'valid', and 256 of 1,024",
    ),
    "experiment missing": (
        lambda d: d.assign(experiment=d.experiment.where(d.index != 7)),
        "column experiment .*line 9 has nothing",
    ),
    "same image twice": (
        lambda d: d.assign(site=1),
        "HEPG2-01, plate 1, well B02, site 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_metadata_is_refused_in_one_sentence(edited_root, name):
    change, match = BAD[name]
    refused(match, load_dataset, "rxrx1", edited_root(change))


def test_mixed_to_test_works_and_refuses_what_wilds_would_assert(sim_root, edited_root):
    mixed = load_dataset("rxrx1", sim_root, split_scheme="mixed-to-test")
    assert len(split_subset(mixed, "train")) == 256 and len(split_subset(mixed, "test")) == 128
    root = edited_root(lambda d: d.assign(experiment=d.experiment.replace("RPE-01", "RPE-09")))
    refused(
        "no RPE-01; .*--split_scheme official",
        load_dataset, "rxrx1", root, split_scheme="mixed-to-test",
    )  # fmt: skip


def test_split_subset_keeps_the_same_share_every_time_in_dataset_order(dataset):
    before = np.random.get_state()[1].copy()
    some, again = (split_subset(dataset, "train", 0.25).indices for _ in range(2))
    assert len(some) == 64 and np.array_equal(some, again)
    assert not np.array_equal(some, split_subset(dataset, "train").indices[:64])
    assert np.array_equal(some, np.sort(some)) and set(some) <= set(split_subset(dataset, "train").indices)
    assert np.array_equal(before, np.random.get_state()[1])


def test_split_subset_names_what_is_allowed(dataset, edited_root):
    refused("split 'valid'; .*train, val, test, id_test", split_subset, dataset, "valid")
    refused("frac .*got 0", split_subset, dataset, "val", 0.0)
    refused(r"frac .* got 1.5", split_subset, dataset, "val", 1.5)
    refused("split 'val' .*frac=0.001", split_subset, dataset, "val", 0.001)
    original = load_dataset(
        "rxrx1", edited_root(lambda d: d.assign(dataset=d.dataset.replace("val", "test")))
    )
    refused("split 'val' has no image", split_subset, original, "val")


def test_grouper_sorts_fields_so_that_names_are_true(dataset, recwarn):
    grouper = make_grouper(dataset, ["plate", "experiment"])
    assert grouper.groupby_fields == ["experiment", "plate"] and not recwarn.list
    row = 900
    group = int(grouper.metadata_to_group(dataset.metadata_array[row : row + 1])[0])
    path = image_path(dataset, row)
    # WILDS names the last field first.
    assert (
        grouper.group_str(group) == f"plate = {path.parent.name[-1]}, experiment = {path.parent.parent.name}"
    )


def test_grouper_names_unknown_fields(dataset):
    refused(
        r"groupby_fields got \['plat'\]; give one or more of cell_type, ", make_grouper, dataset, ["plat"]
    )
    refused(r"groupby_fields got \[\]", make_grouper, dataset, [])


@pytest.mark.parametrize("scale, groups", [(10**5, "6,400,016"), (10**18, "64,000,000,000,000,000,016")])
def test_plates_numbered_by_barcode_are_refused_before_memory_is_taken(edited_root, scale, groups):
    barcoded = load_dataset("rxrx1", edited_root(lambda rows: rows.assign(plate=rows["plate"] * scale)))
    refused(
        f"go up to experiment to 15, plate to {4 * scale} would be {groups}, of which 64 have images; number "
        "the plates of each experiment from 1, in the column plate and in the names of their folders, or",
        make_grouper, barcoded, ["experiment", "plate"],
    )  # fmt: skip
    assert make_grouper(barcoded, ["experiment"]).n_groups == 16


def test_plates_counted_through_a_small_screen_are_no_barcodes(edited_root):
    counted = edited_root(lambda rows: rows.assign(plate=rows["plate"] + 90))
    assert make_grouper(load_dataset("rxrx1", counted), ["experiment", "plate"]).n_groups == 16 * 95


def test_data_info_counts_classes_channels_and_groups(dataset, train, plates):
    info = data_info(dataset, train, plates)
    assert (info.n_classes, info.in_channels, info.n_groups) == (9, 3, 16 * 5)
    assert len(info.train_groups) == 8 * 4 and list(info.train_groups) == sorted(info.train_groups)
    assert all(isinstance(group, int) for group in info.train_groups)


def test_simulated_data_is_known_by_its_file(dataset, copied_root):
    assert not is_simulated(dataset)
    (copied_root / "rxrx1_v1.0" / "SIMULATED.json").write_text(json.dumps({}))
    assert is_simulated(load_dataset("rxrx1", copied_root))


def test_missing_images_are_counted_and_the_first_is_named(copied_root):
    data = load_dataset("rxrx1", copied_root)
    rows = split_subset(data, "train").indices
    check_images(data, rows)
    gone = image_path(data, rows[5])
    gone.unlink()
    for path in image_path(data, rows[-1]).parent.iterdir():
        path.unlink()
    image_path(data, rows[-1]).parent.rmdir()
    refused(f"9 of 256 images .*{gone}", check_images, data, rows)


def test_read_image_gives_the_pixels(dataset):
    x = read_image(dataset, 3)
    assert x.shape == (3, 32, 32) and x.dtype == torch.uint8 and x.is_contiguous()
    assert np.array_equal(x.permute(1, 2, 0).numpy(), np.asarray(Image.open(image_path(dataset, 3))))


def test_read_image_refuses_what_is_not_8_bit(copied_root):
    data = load_dataset("rxrx1", copied_root)
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(image_path(data, 0))
    refused(f"{image_path(data, 0)} .*mode I;16", read_image, data, 0)
    Image.new("RGBA", (32, 32)).save(image_path(data, 1))
    refused("mode RGBA", read_image, data, 1)
    Image.new("L", (32, 32)).save(image_path(data, 2))
    assert read_image(data, 2).shape == (1, 32, 32)
    data.get_input = lambda row: torch.zeros(6, 32, 32)
    refused(r"B04_s2.png .*\(6, 32, 32\) torch.float32", read_image, data, 5)


@pytest.fixture(scope="module")
def full_root(tmp_path_factory):
    full_metadata.needed()
    return full_metadata.write_full_metadata(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def full(full_root):
    return load_dataset("rxrx1", full_root)


def test_full_metadata_loads_in_seconds_of_a_core_with_the_published_counts(full_root, capsys):
    start = time.process_time()  # whatever else the machine is at
    data = load_dataset("rxrx1", full_root)
    spent = time.process_time() - start
    counts = {split: len(split_subset(data, split)) for split in data.split_dict}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with capsys.disabled():
        print(
            f"\nmetadata.csv of {len(data):,} rows: {spent:.2f} s, peak of the whole process {peak:.0f} MiB"
        )
        choices = full_metadata.val_choices()
        print(f"{len(choices)} choices of validation experiments give 9,854 images, first {choices[0]}")
    assert len(data) == 125_510 and data.n_classes == 1139 and counts == full_metadata.COUNTS
    assert full_metadata.VAL_EXPERIMENTS in choices
    assert spent < 30


@pytest.mark.parametrize("fields", [("experiment", "plate"), ("experiment",)])
def test_full_size_plate_loader_covers_each_training_image_once(full, fields, capsys):
    train = split_subset(full, "train")
    grouper = make_grouper(full, fields)
    g = grouper.metadata_to_group(train.metadata_array).numpy()
    tracemalloc.start()
    sampler = PlateSampler(g, 128, seed=0, name_of=grouper.group_str)
    batches = [batch.rows for batch in sampler]
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert len(batches) == len(sampler)
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(40_612))
    assert all(len(np.unique(g[rows])) == 1 for rows in batches)
    sizes = [len(rows) for rows in batches]
    with capsys.disabled():
        print(f"\n{fields}: {len(batches)} batches of {min(sizes)} to {max(sizes)}, {peak:.1f} MiB")
    assert max(sizes) <= 128


def test_full_size_plates_smaller_than_the_batch_are_batches_and_named(full):
    grouper = make_grouper(full, ("experiment", "plate"))
    g = grouper.metadata_to_group(split_subset(full, "train").metadata_array).numpy()
    sampler = PlateSampler(g, 400, seed=0, name_of=grouper.group_str)
    (note,) = sampler.notes
    assert "132 of 132" in note and "smallest has 304: plate = 1, experiment = HUVEC-14" in note
    assert len(sampler) == 132 and sum(map(len, sampler)) == 40_612


def test_full_size_missing_images_are_found_by_listing(full):
    start = time.process_time()
    refused("125,510 of 125,510 images .*HEPG2-01/", check_images, full, range(len(full)))
    assert time.process_time() - start < 30
