"""Fixtures of the engine: a small data set, and the tiny network in place of a ResNet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import runs


@pytest.fixture(scope="module")
def root(sim_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.small_root(sim_root, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        runs.use_tiny_backbone(patch)
        yield
