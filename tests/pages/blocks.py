"""Blocks of commands and of Python on the pages, and what their comments say they need.

`<!-- needs WHAT -->` directly above a block: no test runs it. `<!-- needs WHAT: WORDS -->`: no test runs its
commands that begin with WORDS.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
    "leaderboard/README.md",
    "abra_wilds/harness/README.md",
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"^<!-- needs ([^:>]+?)(?:: ([^>]+?))? -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its fence from 1, its language, text, and what it needs."""

    page: str
    line: int
    language: str
    text: str
    needs: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether a test can run it."""
        return all(words for _, words in self.needs)

    def commands(self) -> Iterator[list[str]]:
        """The words of each command, comments left out."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), "&&"]:
                if word != "&&":
                    words.append(word)
                elif words:
                    yield words
                    words = []

    def runnable(self) -> Iterator[list[str]]:
        """Those that a test can run."""
        for words in self.commands():
            if not any(shlex.join(words).startswith(beginning) for _, beginning in self.needs):
                yield words


@cache
def blocks() -> tuple[Block, ...]:
    """Every block of every page."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            above = re.search(r"(?:^<!--.*-->\n)*\Z", text[: match.start()], re.MULTILINE)
            needs = tuple(NEEDS.findall(above[0] if above else ""))
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[2], match[3], needs))
    return tuple(found)


def of_language(language: str) -> list[Block]:
    """The blocks of a language."""
    return [block for block in blocks() if block.language == language]
