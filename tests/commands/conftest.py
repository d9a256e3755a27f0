"""Fixtures of the commands: the tiny network in place of a ResNet, and a saved run to write into."""

import shutil

import pytest

from tests.engine.conftest import tiny

__all__ = ["tiny"]


@pytest.fixture
def run_folder(trained, tmp_path):
    """A copy of the folder that the module has `trained`."""
    return shutil.copytree(trained, tmp_path / "run")
