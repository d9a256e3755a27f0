"""`abra-wilds model`: the folder of an older run, with or without what training images tell."""

import shutil

import pytest
import torch

from abra_wilds import fit, load_model, run_config
from abra_wilds.__main__ import main
from tests import runs

MODEL = "rxrx1_seed:0_epoch:best_model.pth"


@pytest.fixture(scope="module")
def trained(root, tiny, tmp_path_factory):
    """The folder of a run that left no model's folder."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    fit(run_config("ERM", **runs.settings(root, folder, "ERM", n_epochs=1, warmup_epochs=0)))
    shutil.move(folder / "model", folder.parent / "left")
    return folder


def test_the_folder_is_the_one_that_training_leaves_but_for_what_images_tell(trained, tmp_path, capsys):
    out, images = tmp_path / "model", torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
    assert main(["model", str(trained / MODEL), str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    found, left = load_model(out, "cpu"), load_model(trained.parent / "left", "cpu")
    assert found.about == {**left.about, "weights_sha256": found.about["weights_sha256"]}
    assert torch.equal(found.predict(images), left.predict(images))
    assert found.centroids is None and found.stored.card == left.stored.card


def test_measured_it_has_centroids_and_components(trained, tmp_path):
    out = tmp_path / "model"
    words = ["--measure", "--tta", "eb_bn", "--loader_kwargs", "num_workers=0", "--device", "cpu"]
    assert main(["model", str(trained / MODEL), str(out), *words]) == 0
    found, left = load_model(out, "cpu"), load_model(trained.parent / "left", "cpu")
    torch.testing.assert_close(found.centroids, left.centroids)
    assert found.components.calibration is not None and left.components is None
    images = torch.randint(0, 255, (20, 3, 32, 32), dtype=torch.uint8)
    assert found.predict(images, tta="eb_bn").shape == (20, 9)


def test_what_would_be_overwritten_or_have_no_effect_is_refused(trained, tmp_path, capsys):
    words = ["model", str(trained / MODEL), str(tmp_path)]
    assert "exists and is not overwritten" in runs.sentence(capsys, main, words)
    words = ["model", str(trained / MODEL), str(tmp_path / "new"), "--device", "cpu"]
    assert "--device would have no effect without --measure" in runs.sentence(capsys, main, words)
    words = ["model", str(tmp_path / "nothing.pth"), str(tmp_path / "new")]
    assert "nothing.pth" in runs.sentence(capsys, main, words)
