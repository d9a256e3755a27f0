"""Six-channel RxRx1: which pixels, which splits, what is refused, and that it trains."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from abra_wilds import fit, run_config
from abra_wilds.data.datasets.catalogue import (
    data_info,
    is_simulated,
    load_dataset,
    make_grouper,
    split_subset,
)
from abra_wilds.data.datasets.layouts import STAINS
from abra_wilds.data.reading.images import check_images, image_files, image_path, read_image
from abra_wilds.data.reading.loaders import make_eval_loader, make_train_loader
from abra_wilds.data.reading.planes import read_site
from abra_wilds.simulate import Well, metadata_table, site_picture, wells_table
from tests.data.datasets import full_metadata
from tests.data.datasets.test_catalogue import refused
from tests.data.six import small_screen

SITE = full_metadata.WELLS / "images" / "HEPG2-08" / "Plate1"
REAL = [SITE / f"B02_s1_w{stain}.png" for stain in range(1, 7)]
LINES = ("HEPG2", "HUVEC", "RPE", "U2OS")


def sizes(dataset):
    return {split: len(split_subset(dataset, split)) for split in dataset.split_dict}


def experiments(dataset, split):
    """The names of a split's experiments."""
    column = dataset.metadata_fields.index("experiment")
    numbers = torch.unique(split_subset(dataset, split).metadata_array[:, column]).tolist()
    return {dataset.metadata_map["experiment"][number] for number in numbers}


def per_line(names):
    return tuple(sum(name.startswith(line) for name in names) for line in LINES)


# Pixels


def test_a_row_is_the_simulated_picture_stain_by_stain(six):
    wells = wells_table(small_screen())
    for row in (0, 37, 191):
        at = wells.iloc[row // 2]
        picture = site_picture(small_screen(), Well(*(at[name] for name in Well._fields)), 1 + row % 2)
        x = read_image(six, row)
        assert x.shape == (6, 32, 32) and x.dtype == torch.uint8 and x.is_contiguous()
        assert np.array_equal(x.numpy(), picture)


def test_the_files_of_a_row_are_those_of_the_release_in_the_order_of_stains(six):
    names = [f"images/HEPG2-01/Plate1/B02_s2_w{stain}.png" for stain in range(1, 7)]
    assert image_files(six, 1) == [str(six.data_dir / name) for name in names]
    assert image_path(six, 1) == six.data_dir / names[0]
    assert STAINS == ("Hoechst", "ConA", "phalloidin", "SYTO 14", "MitoTracker", "WGA")


@pytest.mark.skipif(not REAL[0].is_file(), reason=f"the real site is not in {SITE}")
def test_the_real_site_loads_with_its_six_channels_in_order():
    x = read_site([str(path) for path in REAL])
    assert x.shape == (6, 512, 512) and x.dtype == torch.uint8
    for channel, path in zip(x, REAL, strict=True):
        assert np.array_equal(channel.numpy(), np.asarray(Image.open(path)))
    assert len({channel.numpy().tobytes() for channel in x}) == 6


def test_loaders_give_uint8_batches_of_six_channels(six):
    plates = make_grouper(six, ("experiment", "plate"))
    train = split_subset(six, "train")
    loader = make_train_loader(train, plates, train_loader="plate", batch_size=3)
    batches = list(loader)
    assert sum(map(len, batches)) == 48
    assert all(b.x.shape == (3, 6, 32, 32) and b.x.dtype == torch.uint8 for b in batches)
    first = next(iter(make_eval_loader(train, plates, eval_loader="standard", batch_size=5)))
    assert torch.equal(first.x[4], read_image(six, int(train.indices[4])))
    assert data_info(six, train, plates).in_channels == 6


def test_bio_batches_have_the_cell_line_of_their_images_unless_they_mix_them(six):
    train, experiments = split_subset(six, "train"), make_grouper(six, ["experiment"])
    info = data_info(six, train, experiments)
    lines = six.metadata_array[:, six.metadata_fields.index("cell_type")].tolist()
    of = dict(zip(experiments.metadata_to_group(six.metadata_array).tolist(), lines, strict=True))
    assert info.cell_lines == tuple(of[g] for g in info.train_groups) and len(set(info.cell_lines)) > 1
    assert data_info(six, train, make_grouper(six, ["plate"])).cell_lines == ()


def test_a_worker_that_starts_afresh_can_have_the_data_set(six):
    assert torch.equal(pickle.loads(pickle.dumps(six)).get_input(5), six.get_input(5))


# Everything that is not pixels


def test_labels_metadata_groups_and_evaluation_are_those_of_wilds_rxrx1(six, tmp_path):
    folder = tmp_path / "rxrx1_v1.0"
    folder.mkdir()
    metadata_table(small_screen("wilds")).to_csv(folder / "metadata.csv", index=False)
    (folder / "RELEASE_v1.0.txt").touch()
    three = load_dataset("rxrx1", tmp_path)
    assert type(three).__module__ == "wilds.datasets.rxrx1_dataset"
    assert torch.equal(six.metadata_array, three.metadata_array)
    assert six.metadata_array.dtype == three.metadata_array.dtype
    assert six.metadata_fields == three.metadata_fields and six.metadata_map == three.metadata_map
    assert torch.equal(six.y_array, three.y_array) and six.n_classes == three.n_classes == 6
    assert six.y_size == three.y_size and six.is_classification
    assert (six.split_dict, six.split_names) == (three.split_dict, three.split_names)
    assert np.array_equal(six.split_array, three.split_array)
    ours, theirs = (make_grouper(d, ("experiment", "plate")) for d in (six, three))
    assert [ours.group_str(g) for g in range(ours.n_groups)] == [
        theirs.group_str(g) for g in range(theirs.n_groups)
    ]
    guesses = torch.from_numpy(np.random.default_rng(0).integers(6, size=len(six)))
    results = [d.eval(guesses, d.y_array, d.metadata_array) for d in (six, three)]
    assert results[0] == results[1] and "acc_cell_type:HUVEC" in results[0][0]
    logits = torch.nn.functional.one_hot(guesses)
    by_logits = six.eval(logits, six.y_array, six.metadata_array, lambda z: z.argmax(1))
    assert by_logits == results[0]


def test_the_simulated_screen_is_known_as_such_and_another_is_not(six, edited_six):
    assert is_simulated(six) and not is_simulated(edited_six(lambda d: d))


# Splits


def test_wilds_splits_take_the_first_test_experiment_of_each_line_for_validation(six):
    assert sizes(six) == {"train": 48, "val": 48, "test": 48, "id_test": 48}
    assert experiments(six, "val") == {"HEPG2-03", "HUVEC-03"}
    assert experiments(six, "test") == {"HEPG2-04", "HUVEC-04"}
    assert experiments(six, "train") == experiments(six, "id_test")


def test_official_splits_have_both_sites_and_no_validation(six_root):
    official = load_dataset("rxrx1_6ch", six_root, split_scheme="official")
    assert sizes(official) == {"train": 96, "test": 96}
    assert official.split_dict.keys() == official.split_names.keys()
    refused("split 'val'; .*train, test", split_subset, official, "val")


def test_rows_marked_val_are_the_validation_and_belong_to_the_official_test(edited_six):
    mark = {"HEPG2-04": "val"}
    marked = edited_six(lambda d: d.assign(dataset=d["experiment"].map(mark).fillna(d["dataset"])))
    assert experiments(marked, "val") == {"HEPG2-04"}
    assert experiments(marked, "test") == {"HEPG2-03", "HUVEC-03", "HUVEC-04"}
    official = load_dataset("rxrx1_6ch", marked.data_dir.parent, split_scheme="official")
    assert sizes(official) == {"train": 96, "test": 96}


def test_a_validation_is_not_invented_where_a_line_has_one_test_experiment(edited_six):
    refused(
        "one of HUVEC; .*column dataset .*--split_scheme official",
        edited_six, lambda d: d[d["experiment"] != "HUVEC-03"],
    )  # fmt: skip


def test_a_screen_without_test_experiments_has_no_wilds_splits(edited_six):
    refused("no test experiment", edited_six, lambda d: d[d["dataset"] == "train"])


@pytest.fixture(scope="module")
def full_root(tmp_path_factory):
    """The research release's whole metadata.csv, which knows train and test alone."""
    full_metadata.needed()
    root = tmp_path_factory.mktemp("full")
    (root / "rxrx1").mkdir()
    table = full_metadata.full_metadata()
    table["dataset"] = table["dataset"].replace("val", "test")
    table.to_csv(root / "rxrx1" / "metadata.csv", index=False)
    return root


def test_official_splits_of_the_real_screen_are_those_of_table_1(full_root):
    full = load_dataset("rxrx1_6ch", full_root, split_scheme="official")
    train, test = experiments(full, "train"), experiments(full, "test")
    assert (len(train), per_line(train)) == (33, (7, 16, 7, 3))
    assert (len(test), per_line(test)) == (18, (4, 8, 4, 2))
    assert sizes(full) == {"train": 81_224, "test": 44_286} and full.n_classes == 1139


def test_wilds_splits_of_the_real_screen_have_the_published_counts(full_root):
    full = load_dataset("rxrx1_6ch", full_root)
    assert sizes(full) == full_metadata.COUNTS
    assert experiments(full, "val") == set(full_metadata.VAL_EXPERIMENTS)
    assert per_line(experiments(full, "test")) == (3, 7, 3, 1)
    refused("753,060 of 753,060 images .*HEPG2-01/Plate1/B02_s1_w1.png", check_images, full,
            range(len(full)))  # fmt: skip


# A run


def test_erm_trains_on_six_channels_and_leaves_its_files(six_root, tmp_path):
    config = run_config(
        "ERM", dataset="rxrx1_6ch", root_dir=str(six_root), log_dir=str(tmp_path / "run"), model="resnet18",
        pretrained=False, n_epochs=1, batch_size=16, warmup_epochs=0.5, device="cpu",
        loader_kwargs={"num_workers": 0},
    )  # fmt: skip
    assert (config.data.split_scheme, config.origin["split_scheme"]) == ("wilds", "default")
    records = fit(config)
    assert {r.split for r in records} == {"val", "test", "id_test"}
    assert all(r.dataset == "rxrx1_6ch" and r.simulated and r.n == 48 for r in records)
    assert all(set(r.acc_by_cell) == {"HEPG2", "HUVEC"} for r in records)
    assert (tmp_path / "run" / "rxrx1_6ch_split:val_seed:0_epoch:best_pred.csv").is_file()
    weights = torch.load(tmp_path / "run" / "rxrx1_6ch_seed:0_epoch:last_model.pth", weights_only=True)
    shapes = [tuple(v.shape) for v in weights["algorithm"].values() if v.dim() == 4]
    assert shapes[0] == (64, 6, 7, 7)
