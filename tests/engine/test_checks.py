"""What is refused before a run begins because it would end it, or leave nothing of it, only afterwards."""

import shutil

import pandas as pd
import pytest

from abra_wilds.commands.train import main
from abra_wilds.engine.evaluation.evaluate import reestimate_bn
from tests import runs
from tests.helpers import tiny_vit

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize("flags", [[], ["--dry_run"]])
@pytest.mark.parametrize(
    ("algorithm", "changes", "named"),
    [
        # A transformer can cut its views in training, and could not cut whole images afterwards.
        ("DINOv2", {"target_resolution": (33,)}, ("33 x 33", "--target_resolution 32 32")),
        # Batches of features that the training split is too small for.
        ("IRMX", {"irmx_domain_rows": 20}, ("80 rows", "4 bio-batches of 20", "64 images")),
        ("SimCLR", {"target_resolution": (48, 32)}, ("--target_resolution", "48x32")),  # views are square
    ],
)
def test_what_would_end_a_run_later_is_refused(root, refused, tmp_path, flags, algorithm, changes, named):
    argv = runs.command(root, tmp_path / "run", algorithm, **changes)
    runs.assert_says(refused([*argv, *flags]), *named)


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
    for flags in (["--resume"], ["--eval_only"]):
        said = runs.sentence(capsys, main, [*runs.command(other, folder, "ERM", n_epochs=1), *flags])
        runs.assert_says(said, str(folder), str(other), "--log_dir")
    assert (folder / "config.json").read_bytes() == before
    assert main([*own, "--resume"]) == main([*own, "--eval_only"]) == 0
