"""Fixtures of models: a run that leaves one, and the images of a plate that it has not seen."""

from __future__ import annotations

import pytest
import torch

from abra_wilds import fit, run_config
from abra_wilds.data.datasets.catalogue import load_dataset, split_subset
from abra_wilds.data.reading.images import read_image
from tests import runs
from tests.engine.conftest import tiny

__all__ = ["tiny"]


@pytest.fixture(scope="session")
def trained(root, tmp_path_factory):
    """The folder of a run of ABRA that picks an epoch with eb_bn too."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        runs.use_tiny_backbone(patch)
        fit(run_config("ABRA", **runs.settings(root, folder, "ABRA", lr=0.02, also_tta=["eb_bn,min=8"])))
    return folder


@pytest.fixture(scope="session")
def plate(root):
    """The images (16, 3, 32, 32) uint8 of a plate of test, and class ids of its controls, -1 of others."""
    subset = split_subset(load_dataset("rxrx1", root), "test")
    fields = [list(subset.metadata_fields).index(name) for name in ("experiment", "plate")]
    own = (subset.metadata_array[:, fields] == subset.metadata_array[0, fields]).all(1)
    rows = torch.nonzero(own).flatten().tolist()
    labels = subset.y_array[rows]
    images = torch.stack([read_image(subset.dataset, int(subset.indices[r])) for r in rows])
    return images, torch.where(labels == 8, labels, -1)
