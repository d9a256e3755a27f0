"""Runs of the main command on WILDS' other image sets: its files, its evaluators' scores, adaptation."""

import pytest
import torch

from abra_wilds import run_config
from abra_wilds.config.datasets import DATASETS, OTHERS
from abra_wilds.data.datasets.catalogue import load_dataset, split_subset
from abra_wilds.engine.evaluation.saved import predict_saved
from abra_wilds.engine.fit import fit
from abra_wilds.errors import InputError
from abra_wilds.results.files import read_predictions
from tests import runs

SIDE = {"camelyon17": 96, "iwildcam": 32, "fmow": 32}


def run_on(name, root, folder, algorithm, **more):
    """A short run with the tiny network; the folder of it."""
    flags = runs.settings(root, folder, algorithm, dataset=name, warmup_epochs=None, **more)
    fit(run_config(algorithm, **{**flags, "target_resolution": [SIDE[name]]}))
    return folder


@pytest.mark.parametrize("algorithm", ["ERM", "ABRA"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_run_leaves_wilds_files_with_the_official_scores(tiny, others_root, tmp_path, name, algorithm):
    folder = run_on(name, others_root, tmp_path / "run", algorithm)
    metric, chosen = DATASETS[name].values["val_metric"], {}
    dataset = load_dataset(name, others_root)
    for split in [s for s in dataset.split_dict if s != "train"]:
        subset = split_subset(dataset, split)
        epochs = runs.rows_of(folder / f"{split}_eval.csv")
        path = folder / f"{name}_split:{split}_seed:0_epoch:last_pred.csv"
        y_pred = torch.tensor(list(read_predictions(path)))
        official, _ = subset.eval(y_pred, subset.y_array, subset.metadata_array)
        for key in ("acc_avg", metric):
            assert float(epochs[-1][key]) == pytest.approx(float(official[key]), abs=1e-6)
        chosen[split] = [float(row[metric]) for row in epochs]
    best = runs.state(folder, "best", dataset=name)
    assert best["best_val_metric"] == pytest.approx(max(chosen["val"]), abs=1e-6)
    assert best["epoch"] == chosen["val"].index(max(chosen["val"]))
    assert (folder / f"{name}_seed:0_epoch:best_model.pth").is_file() and (folder / "model").is_dir()


def test_a_hospital_or_a_slide_is_adapted_to(tiny, others_root, tmp_path):
    folder = run_on("camelyon17", others_root, tmp_path / "run", "ERM", n_epochs=1)
    checkpoint = folder / "camelyon17_seed:0_epoch:best_model.pth"
    hospital, *_ = predict_saved(checkpoint, ["test"], flags={"tta": "plate_bn", "tta_min": 8})
    assert (hospital.tta, hospital.n) == ("plate_bn_hospital_min8", 16)
    log = (folder / "tta_plate_bn_hospital_min8" / "log.txt").read_text()
    assert "16 images, 1 hospitals, 1 passes; statistics of 16 to 16 images" in log
    flags = {"tta": "plate_bn", "tta_min": 8, "tta_group": "slide"}
    predict_saved(checkpoint, ["test"], flags=flags)
    log = (folder / "tta_plate_bn_slide_min8" / "log.txt").read_text()
    assert "2 slides, 2 passes; statistics of 8 to 8 images" in log


def test_bio_batches_are_those_of_the_data_set():
    with pytest.raises(InputError, match="--tta_group must be one of hospital, slide; got 'plate'"):
        run_config("ERM", dataset="camelyon17", tta="plate_bn", tta_group="plate")
    with pytest.raises(InputError, match="--tta_group must be one of plate, experiment; got 'hospital'"):
        run_config("ERM", tta="plate_bn", tta_group="hospital")
    config = run_config("ARM-BN", dataset="camelyon17")
    assert config.data.groupby_fields == ("hospital",) and config.eval.name.startswith("plate_bn_hospital")


def test_colours_are_not_scaled_where_channels_are_none(six_root):
    from abra_wilds.engine.setup import prepare

    config = run_config(
        "ERM", dataset="rxrx1_6ch", root_dir=str(six_root), transform="imagenet", model="resnet18"
    )
    with pytest.raises(InputError, match="transform imagenet is for red, green and blue, not 6 channels"):
        prepare(config)


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("camelyon17", ("densenet121", False, 32, 10, "SGD", 1e-3, 1e-2, "acc_avg", 2)),
        ("iwildcam", ("resnet50", True, 16, 12, "Adam", 3e-5, 0.0, "F1-macro_all", 2)),
        ("fmow", ("densenet121", True, 32, 60, "Adam", 1e-4, 0.0, "acc_worst_region", 8)),
    ],
)
def test_defaults_are_those_that_wilds_states(name, stated):
    """p-lambda/wilds 4726775, examples/configs/datasets.py."""
    names = ("model", "pretrained", "batch_size", "n_epochs", "optimizer", "lr", "weight_decay", "val_metric")
    for algorithm in ("ERM", "ABRA", "IRM"):
        values = run_config(algorithm, dataset=name).values()
        assert tuple(values[k] for k in (*names, "n_groups_per_batch")) == stated
    assert run_config("deepCORAL", dataset="iwildcam").method.penalty_weight == 10.0
    assert run_config("ABRA", dataset=name, preset="paper").values()["lr"] == 1e-2
