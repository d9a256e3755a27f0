"""Runs whose numbers may stand in one row with others: batch-norm statistics, choice of the epoch, images."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.data.augment import transforms
from abra_wilds.engine.artifacts.checkpoint import read_checkpoint, read_progress
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.engine.setup import prepare
from abra_wilds.errors import InputError
from tests import runs
from tests.data.six import write_small_six


@pytest.fixture(scope="module", autouse=True)
def small(tiny):
    """The tiny network in place of a ResNet."""


@pytest.fixture(scope="module")
def six_root(tmp_path_factory):
    return write_small_six(tmp_path_factory.mktemp("six"), replicates=4)


PAPER = {"dataset": "rxrx1_6ch", "preset": "paper", "warmup_epochs": 0, "warmup_from": None}


def paper_run(root, folder, algorithm="ERM", **more):
    flags = runs.settings(root, folder, algorithm, **{**PAPER, **more})
    return run_config(algorithm, **flags)


def test_erm_predicts_alike_whatever_the_zoom_of_its_training_crops(six_root, tmp_path, monkeypatch):
    """Six channels and the preset paper: crops of half the side, blown up, against whole images.

    The second run hardly moves the weights of the first, so that its statistics alone could change anything.
    """
    fit(paper_run(six_root, tmp_path / "learned", n_epochs=4, lr=0.01, batch_size=16))
    start = str(next((tmp_path / "learned").glob("*_epoch:last_model.pth")))
    found = {}
    for side, to in ((16, 32), (32, 32)):
        monkeypatch.setattr(transforms, "CROP", side)
        monkeypatch.setattr(transforms, "CROP_TO", to)
        for bn_stats in (None, "running"):
            folder = tmp_path / f"{side} {bn_stats}"
            config = paper_run(
                six_root, folder, n_epochs=3, lr=1e-9, weight_decay=0, batch_size=16,
                pretrained_model_path=start, pretrained=None, bn_stats=bn_stats,
            )  # fmt: skip
            assert config.eval.bn_stats == (bn_stats or "precise")
            files = [folder / r.predictions for r in fit(config) if r.checkpoint == "last"]
            found[side, bn_stats] = np.concatenate([np.loadtxt(file) for file in files])
    assert np.mean(found[16, None] == found[32, None]) > 0.99
    assert np.mean(found[16, "running"] == found[32, "running"]) < 0.97


@pytest.mark.parametrize(
    ("algorithm", "flags", "bn_stats"),
    [
        ("ERM", {}, "running"),
        ("ERM", {"train_loader": "plate", "groupby_fields": ["experiment", "plate"]}, "precise"),
        ("ERM", {"train_loader": "group", "n_groups_per_batch": 1}, "precise"),
        ("ERM", {"train_loader": "group", "n_groups_per_batch": 8}, "running"),
        ("ERM", {"transform": "iid"}, "precise"),
        ("ERM", {"transform": "paper"}, "precise"),
        ("ERM", {"mix": "cutmix_any"}, "precise"),
        ("ABRA", {}, "precise"),
        ("ABRA", {"train_loader": "group", "preset": "wilds", "mix": "none"}, "running"),
        ("ABRA", {"train_loader": "standard", "preset": "wilds", "mix": "none", "abra_prob": 0}, "running"),
        ("AdvStyle", {"train_loader": "plate"}, "precise"),
        ("ARM-BN", {}, "precise"),
        ("CS-ARM-BN", {}, "precise"),
        ("SimCLR", {"preset": "wilds"}, "precise"),
        ("DSU", {"preset": "wilds"}, "precise"),
    ],
)
def test_statistics_are_estimated_anew_where_training_saw_other_images_or_one_bio_batch(
    algorithm, flags, bn_stats
):
    config = run_config(algorithm, **flags)
    assert (config.eval.bn_stats, config.origin["bn_stats"]) == (bn_stats, "training batches")
    assert run_config(algorithm, **flags, bn_stats="running").eval.bn_stats == "running"


@pytest.mark.parametrize("algorithm", ["ERM", "ABRA", "deepCORAL"])
def test_statistics_are_of_every_training_image_once_whatever_the_loader(root, algorithm, tmp_path):
    setup = prepare(run_config(algorithm, **runs.settings(root, tmp_path, algorithm)))
    batches = runs.drawn(setup.plain_loader.sampler)
    assert sorted(row for rows in batches for row in rows) == list(range(len(setup.subsets["train"])))
    assert len(set(map(frozenset, batches))) == len(setup.plain_loader)
    assert max(len(batch.groups) for batch in setup.plain_loader) > 1


@pytest.fixture(scope="module")
def picked(root, tmp_path_factory):
    """A run in which three adaptations pick epochs beside its own."""
    folder = tmp_path_factory.mktemp("picked")
    also = [
        "plate_bn,group=experiment,min=4",
        "batch_bn,batch_size=8,min=4",
        "eb_bn,group=experiment,min=4",
    ]
    config = run_config("ERM", **runs.settings(root, folder, "ERM", n_epochs=5, lr=0.02, also_tta=also))
    return folder, fit(config)


NAMES = ("plate_bn_experiment_min4", "batch_bn_b8_min4", "eb_bn_experiment_min4")


@pytest.mark.parametrize("name", NAMES)
def test_an_adaptation_keeps_the_epoch_that_is_best_by_its_own_accuracy_on_val(picked, root, tmp_path, name):
    folder, _ = picked
    tta = name[: name.index("_bn") + 3]
    flags = {"tta": tta, "tta_min": 4}
    flags |= {"tta_batch_size": 8} if tta == "batch_bn" else {"tta_group": "experiment"}
    last = read_progress(folder / "rxrx1_seed:0_epoch:last_model.pth")
    value, epoch = last.picked[name]
    kept = folder / f"rxrx1_seed:0_epoch:best_{name}_model.pth"
    assert read_progress(kept).epoch == epoch
    (record,) = predict_saved(kept, ["val"], tmp_path / "own", flags)
    assert record.acc == pytest.approx(value, abs=1e-7)
    assert (record.checkpoint, record.picked_by, record.tta) == ("best", name, name)
    (other,) = predict_saved(folder / "rxrx1_seed:0_epoch:best_model.pth", ["val"], tmp_path / "other", flags)
    assert (other.checkpoint, other.picked_by, other.tta) == ("best", "none", name)
    assert other.acc <= record.acc


@pytest.mark.parametrize("also", [["plate_bn,group=experiment,min=4"], []])
def test_a_run_goes_on_with_the_adaptations_that_it_began_with(picked, root, tmp_path, also):
    folder, _ = picked
    shutil.copytree(folder, tmp_path / "run")
    flags = {"n_epochs": 5, "lr": 0.02, "also_tta": also, "resume": True}
    with pytest.raises(InputError, match=", ".join(sorted(NAMES))):
        fit(run_config("ERM", **runs.settings(root, tmp_path / "run", "ERM", **flags)))


def test_a_finished_run_and_its_records_say_which_epochs_were_picked_and_by_what(picked):
    folder, records = picked
    last = read_progress(folder / "rxrx1_seed:0_epoch:last_model.pth")
    content = json.loads((folder / "config.json").read_text())
    assert content["finished"] and content["picked"] == {k: epoch for k, (_, epoch) in last.picked.items()}
    assert {(r.checkpoint, r.picked_by) for r in records} == {("best", "none"), ("last", "")}


def test_epochs_that_are_best_to_several_are_stored_once(picked):
    folder, _ = picked
    models = {path: read_progress(path).epoch for path in folder.glob("*_epoch:best*_model.pth")}
    assert len(models) == 4
    for path, epoch in models.items():
        for other, its in models.items():
            assert (os.stat(path).st_ino == os.stat(other).st_ino) == (epoch == its)


def test_picking_changes_nothing_in_the_run_itself(picked, root, tmp_path):
    folder, records = picked
    plain = fit(run_config("ERM", **runs.settings(root, tmp_path, "ERM", n_epochs=5, lr=0.02)))
    assert [r.predictions_sha256 for r in plain] == [r.predictions_sha256 for r in records]
    name = "rxrx1_seed:0_epoch:last_model.pth"
    a, b = (read_checkpoint(where / name)["algorithm"] for where in (folder, tmp_path))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert runs.rows_of(folder / "val_eval.csv") == runs.rows_of(tmp_path / "val_eval.csv")


@pytest.mark.parametrize(
    ("algorithm", "also", "said"),
    [
        ("ERM", ["plate_bn,group=well"], "tta_group"),
        ("ERM", ["plate_bn,size=3"], "also_tta"),
        ("ERM", ["plate_bn", "plate_bn"], "also_tta"),
        ("ERM", ["none"], "also_tta"),
        ("ERM", ["plate_bn,min=20"], "tta_min"),
        ("ERM", ["plate_bn,min=4,prior=3"], "prior"),
        ("SimCLR", ["plate_bn,group=experiment,min=4"], "--also_tta"),  # a classifier on frozen features
    ],
)
def test_adaptations_that_cannot_pick_are_refused_before_anything_is_written(
    root, tmp_path, refused, algorithm, also, said
):
    assert said in refused(runs.command(root, tmp_path / "run", algorithm, also_tta=also))


def test_a_share_of_the_data_is_the_same_for_every_seed(root, tmp_path):
    def rows(seed):
        flags = runs.settings(root, tmp_path, "ERM", frac=0.5, seed=seed)
        return {split: list(s.indices) for split, s in prepare(run_config("ERM", **flags)).subsets.items()}

    first = rows(0)
    assert first == rows(1) and len(first["test"]) == 32


def test_images_that_are_alone_in_their_bio_batch_are_not_shifted_together():
    with pytest.raises(InputError, match=r"--train_loader plate.*--abra_stats_over"):
        run_config("ABRA", train_loader="standard")
    for allowed in ({"abra_stats_over": "batch"}, {"abra_prob": 0}):
        assert run_config("ABRA", train_loader="standard", **allowed).data.train_loader == "standard"


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (["plate"], "plate number over all experiments"),
        (["experiment", "plate"], "plate"),
        (["experiment"], "experiment"),
    ],
)
def test_a_plate_number_alone_is_not_called_a_plate(fields, name):
    assert run_config("ERM", groupby_fields=fields).data.bio_batch == name


def test_support_at_test_time_is_that_of_training():
    config = run_config("ARM-BN")
    assert config.eval.tta_batch_size == config.data.batch_size // config.data.n_groups_per_batch == 36
    alone = run_config("ARM-BN", train_loader="plate", batch_size=24)
    assert (alone.eval.tta_batch_size, alone.eval.tta_min) == (24, 12)


def test_the_log_tells_when_the_perturbation_does_nothing(root, tmp_path):
    said = {}
    for k in (1e-6, 3.0):
        flags = {"abra_k_init": k, "abra_k_bound": "inf", "abra_alpha": 0, "mix": "none"}
        fit(run_config("ABRA", **runs.settings(root, tmp_path / str(k), "ABRA", **flags)))
        said[k] = (tmp_path / str(k) / "log.txt").read_text()
        last = runs.rows_of(tmp_path / str(k) / "train_algo.csv")[-1]
        assert float(last["logit_shift"]) > 0 and float(last["bio_batch_distance"]) > 0
    assert "the perturbation does next to nothing" in said[1e-6]
    assert "a larger --abra_k_init, and --abra_k_bound above it" in said[1e-6]
    assert "the perturbation does next to nothing" not in said[3.0]
