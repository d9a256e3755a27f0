"""Fixtures of the engine: a small data set, and the tiny network in place of a ResNet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import runs


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        runs.use_tiny_backbone(patch)
        yield
