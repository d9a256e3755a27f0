"""A tiny saved model, opened; its data are noise, so that no bio-batch differs from another but by chance."""

from dataclasses import replace

import pytest

from abra_wilds import fit, run_config
from abra_wilds.analysis.saved import open_saved
from tests import runs

MODEL = "rxrx1_seed:0_epoch:best_model.pth"


@pytest.fixture(scope="session")
def checkpoint(root, tmp_path_factory):
    """The best model of a tiny run of ERM."""
    folder = tmp_path_factory.mktemp("analysed")
    with pytest.MonkeyPatch.context() as patch:
        runs.use_tiny_backbone(patch)
        fit(run_config("ERM", **runs.settings(root, folder, "ERM", n_epochs=1, bn_stats="precise")))
    return folder / MODEL


@pytest.fixture(scope="session")
def saved(checkpoint):
    """That model, with plates for bio-batches: 8 images of train, 16 of the other splits."""
    with pytest.MonkeyPatch.context() as patch:
        runs.use_tiny_backbone(patch)
        saved = open_saved(checkpoint)
    e = replace(saved.config.eval, tta_min=4)
    return replace(saved, config=replace(saved.config, eval=e))
