"""Fixtures of the tests of reading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from abra_wilds.data.reading.pack import from_files


@pytest.fixture
def load(root: Path) -> Callable[[], Any]:
    """Loads the data set of a test's own root_dir again, from its files."""
    return lambda: from_files("rxrx1_6ch", root)
