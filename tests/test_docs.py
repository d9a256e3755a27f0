"""What the documents say exists."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from abra_wilds import METHODS
from abra_wilds.tta.adapters import ADAPTERS

ROOT = Path(__file__).resolve().parents[1]
# Pages that docs/hooks.py makes of files elsewhere.
ELSEWHERE = re.findall(r'^    "([\w/]+\.md)": "', (ROOT / "docs" / "hooks.py").read_text(), re.MULTILINE)


PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")


@pytest.mark.parametrize("name", [*PAGES, "abra_wilds/methods/README.md", "leaderboard/README.md"])
def test_every_path_a_document_names_exists(name):
    text = (ROOT / name).read_text()
    paths = set(re.findall(r"`((?:abra_wilds|examples|leaderboard|tests)/[\w./]*)`", text))
    missing = [p for p in paths if not (ROOT / p).exists() and "foo" not in p]
    assert paths and not missing


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_every_link_within_the_repository_leads_somewhere(path):
    made = set(ELSEWHERE) | {"reference/configuration.md", "reference/api.md"}  # by docs/hooks.py
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if not (path.parent / link).exists() and link not in made]
    assert not missing


@pytest.mark.parametrize("name", ["docs/training.md", "abra_wilds/methods/README.md"])
def test_methods_are_listed_in_the_tables_order(name):
    rows = re.findall(r"^\| `([\w-]+)`.*?\|", (ROOT / name).read_text(), flags=re.M)
    assert [row for row in rows if row in METHODS] == list(METHODS)


def test_the_methods_page_has_a_paragraph_for_each():
    text = (ROOT / "abra_wilds/methods/README.md").read_text()
    assert re.findall(r"^\*\*([\w-]+)\*\*", text, flags=re.M) == list(METHODS)


def test_every_adaptation_is_documented():
    for name in ("docs/training.md", "abra_wilds/methods/README.md"):
        text = (ROOT / name).read_text()
        assert all(f"{tta}`" in text for tta in ADAPTERS), name


def test_every_test_that_the_page_of_faults_names_exists():
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    bad, faults = page.split("## Faults")
    named = [re.findall(r"`([\w/]+\.py)::(\w+)` \|$", part, re.MULTILINE) for part in (bad, faults)]
    assert len(named[0]) >= 60 and len(named[1]) >= 20
    for file, name in [*named[0], *named[1]]:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, name)


PARTS = (ROOT / "docs" / "parts.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```python\n((?:.*\n)*?.*import (.*)\n(?:.*\n)*?)```", PARTS))


def test_the_page_of_parts_has_a_heading_for_each_and_no_block_that_is_long():
    for name in ("BatchShift", "abra_loss", "Batch.of", "PlateBatchSampler", "adapted", "predict"):
        assert re.search(rf"^## .*`{name}`", PARTS, re.MULTILINE), name
    assert len(BLOCKS) == PARTS.count("```python")
    for block in BLOCKS:
        assert len([line for line in block.splitlines() if line and "import " not in line]) <= 10


@pytest.mark.parametrize("block", BLOCKS, ids=list(BLOCKS.values()))
def test_every_block_of_the_page_of_parts_prints_what_its_comments_say(block):
    said = re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(compile(block, "docs/parts.md", "exec"), {})
    assert said and set(shown.getvalue().splitlines()) == set(said)
