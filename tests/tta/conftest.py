"""Fixtures of adaptation: the tiny network in place of a ResNet, and the small data set, opened."""

import pytest

from abra_wilds.data.datasets.catalogue import load_dataset
from tests.engine.conftest import tiny

__all__ = ["tiny"]


@pytest.fixture(scope="module")
def dataset(root):
    """Two lines; of an experiment two plates, with 16 images in val and test and 8 in id_test."""
    return load_dataset("rxrx1", root)
