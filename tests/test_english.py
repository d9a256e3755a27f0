"""Spelling, and words and phrases for which plain English has better ones."""

import re
import subprocess

import pytest

from tests import runs

# What codespell's list of words, `.codespell.txt`, cannot hold.
PHRASES = (
    r"for want of",
    r"c[oa]mes? about",
    r"(what|how much) (there is|is there) of",
    r"to be had",
    r"as (was|were) bidden",
    r"lies? in wait",
)
NAMES = subprocess.check_output(["git", "ls-files", "-z"], cwd=runs.REPOSITORY, text=True).split("\0")
THIS = "tests/test_english.py"
PROSE = [name for name in NAMES if name.endswith((".py", ".md", ".j2", ".yaml", ".cfg")) and name != THIS]


def phrases(text):
    """Those of PHRASES that a text has, also across ends of lines and marks of comments."""
    flat = re.sub(r"\s+(# )?", " ", text)
    return [found.group() for p in PHRASES for found in re.finditer(rf"\b{p}\b", flat, re.IGNORECASE)]


def spelling(*names, **more):
    """What codespell says of files, by the settings of pyproject.toml."""
    return runs.process("-m", "codespell_lib", *names, **more).stdout.splitlines()


@pytest.mark.parametrize("folder", ["abra_wilds", "tests", "docs", "examples", "leaderboard", ""])
def test_no_text_has_a_phrase_that_a_reader_must_turn_over(folder):
    mine = [name for name in PROSE if name.rpartition("/")[0].partition("/")[0] == folder]
    found = {name: phrases((runs.REPOSITORY / name).read_text(encoding="utf-8")) for name in mine}
    assert mine and not {name: said for name, said in found.items() if said}


def test_a_phrase_is_found_across_lines():
    assert phrases("# It fails For\n    # want of memory.") == ["For want of"]


def test_codespell_finds_nothing_in_what_git_tracks():
    pytest.importorskip("codespell_lib")
    assert spelling(*filter(None, NAMES)) == []


def test_codespell_reads_the_list_and_the_exceptions(tmp_path):
    pytest.importorskip("codespell_lib")
    page = tmp_path / "page.md"
    bad = ["told ==> said", "seperate ==> separate"]  # codespell:ignore
    words = " and ".join(line.split()[0] for line in bad)
    page.write_text(f"behind a proxy\na pre-empted job\n{words}\n", encoding="utf-8")
    assert [line.partition(": ")[2] for line in spelling(page)] == bad
