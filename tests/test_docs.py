"""What the documents say exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from abra_wilds import METHODS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_path_a_document_names_exists(name):
    text = (ROOT / name).read_text()
    paths = set(re.findall(r"`((?:abra_wilds|examples|leaderboard|tests)/[\w./]*)`", text))
    missing = [p for p in paths if not (ROOT / p).exists() and "foo" not in p]
    assert paths and not missing


def test_the_readme_lists_the_methods_in_the_tables_order():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), flags=re.M)
    assert rows == list(METHODS)
