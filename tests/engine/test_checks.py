"""What is refused before a run begins because it would end it, or leave nothing of it, only afterwards."""

import shutil

import pandas as pd
import pytest

from abra_wilds.commands.train import main
from abra_wilds.engine.evaluation.evaluate import reestimate_bn
from tests import runs
from tests.helpers import tiny_vit

pytestmark = pytest.mark.usefixtures("tiny")
FLAGS = [[], ["--dry_run"]]


@pytest.mark.parametrize("flags", FLAGS)
def test_images_that_a_transformer_cannot_cut_though_it_can_cut_the_views_in_training(
    root, refused, tmp_path, flags
):
    argv = runs.command(root, tmp_path / "run", "DINOv2", target_resolution=(33,))
    runs.assert_says(refused([*argv, *flags]), "images of 33 x 33", "patches of", "--target_resolution 32 32")


@pytest.mark.parametrize("flags", FLAGS)
def test_batches_of_features_that_the_training_split_is_too_small_for(root, refused, tmp_path, flags):
    argv = runs.command(root, tmp_path / "run", "IRMX", irmx_domain_rows=20)
    said = refused([*argv, *flags])
    runs.assert_says(said, "IRMX", "80 rows, 4 bio-batches of 20", "has 64 images", "take fewer")


def test_without_batch_norm_no_image_is_read_for_statistics():
    def images():
        raise AssertionError("a training image is read")
        yield

    reestimate_bn(tiny_vit(), print, images())


def test_a_run_goes_on_with_its_own_labels_alone(root, tmp_path, capsys):
    folder, other = tmp_path / "run", tmp_path / "other"
    own = runs.command(root, folder, "ERM", n_epochs=1)
    assert main(own) == 0
    shutil.copytree(root, other, symlinks=True)
    path = other / "rxrx1_v1.0" / "metadata.csv"
    rows = pd.read_csv(path)
    rows["sirna_id"] = rows["sirna_id"].max() - rows["sirna_id"]
    rows.to_csv(path, index=False)
    before = (folder / "config.json").read_bytes()
    capsys.readouterr()
    for flags in (["--resume"], ["--eval_only"]):
        assert main([*runs.command(other, folder, "ERM", n_epochs=1), *flags]) == 2
        said = capsys.readouterr().err
        runs.assert_says(said, str(folder), "other labels or metadata", str(other), "another --log_dir")
    assert (folder / "config.json").read_bytes() == before
    assert main([*own, "--resume"]) == main([*own, "--eval_only"]) == 0
