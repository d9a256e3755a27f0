"""Settings in YAML as people write them, read strictly: by --config, sweeps and key=value. Torch-free.

A text is what stands there: 001, no and 1.10 are names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from abra_wilds.config.run import COMMON
from abra_wilds.config.screen import FILE, ScreenConfig, check_settings, relative_to, screen_folder
from abra_wilds.errors import InputError

# Settings whose texts are the user's; those of methods have choices.
TEXTS = frozenset(
    name for name, s in COMMON.settings.items() if s.flag.kind is str and s.flag.choices is None
)
LARGEST = 1 << 20  # bytes; the longest sweep of the package has 4,000
MOST_NODES = 100_000


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that occurs twice, where PyYAML keeps the last.

    Aliases are read up to a size: nine lines of ten aliases each stand for more than memory holds.

    Attributes:
        texts: keys whose values stay as they are written.
    """

    texts: frozenset[str] = frozenset()

    def get_single_node(self) -> yaml.Node | None:
        """The document, unless its aliases make it too large."""
        node = super().get_single_node()
        if node is not None and weight(node, {}) > MOST_NODES:
            raise yaml.YAMLError("its aliases stand for too much; write out what is meant")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, unless two of its keys are spelled alike."""
        seen: set[str] = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise yaml.YAMLError(f"{key[:40]!r} occurs twice; keep one")
            seen.add(key)
        for key_node, value in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in self.texts:
                for scalar in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    as_written(scalar)
        return super().construct_mapping(node, deep=deep)


def as_written(node: yaml.Node) -> None:
    """Make a node's value its text, unless it has none."""
    if isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null":
        node.tag = "tag:yaml.org,2002:str"


def weight(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, its aliases written out.

    Raises:
        yaml.YAMLError: if it holds itself.
    """
    if known.setdefault(id(node), 0) == 0:
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        pairs = (part if isinstance(part, tuple) else (part,) for part in parts)
        inside = [part for pair in pairs for part in pair]
        if any(known.get(id(part)) == 0 for part in inside):
            raise yaml.YAMLError("an alias refers to the value that it is part of; write the value out")
        known[id(node)] = 1 + sum(weight(part, known) for part in inside)
    return known[id(node)]


def read_value(text: str, texts: Iterable[str] = ()) -> Any:
    """The value that a YAML text stands for; values of the keys in `texts` are texts.

    Raises:
        ValueError: with one line that says why, if it cannot be read.
    """
    try:
        loader = Loader(text)
        loader.texts = frozenset(texts)
        return loader.get_single_data()
    # An impossible date or a huge number: ValueError and OverflowError; brackets in brackets: RecursionError.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as fault:
        mark = getattr(fault, "problem_mark", None)
        reason = getattr(fault, "problem", None) or str(fault).partition("\n")[0] or type(fault).__name__
        raise ValueError(reason + (f", line {mark.line + 1}" if mark else "")) from None


def read_settings(path: Path, what: str, texts: Iterable[str] = ()) -> dict[str, Any]:
    """The names and values of a YAML file.

    Args:
        path: of the file.
        what: it is called in messages, such as "--config".
        texts: names besides TEXTS whose values are texts.

    Raises:
        InputError: if it is no YAML file of names and values, each name once.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8-sig")
    # ValueError: UnicodeDecodeError, and a name with a null byte.
    except (OSError, ValueError) as fault:
        raise InputError(f"{what} {path} cannot be read ({fault}); give a YAML file") from None
    if len(content) > LARGEST:
        raise InputError(f"{what} {path} has more than {LARGEST:,} bytes; give a YAML file of settings")
    try:
        found = read_value(text, TEXTS.union(texts))
    except ValueError as fault:
        raise InputError(f"{what} {path} is no YAML ({fault}); correct it") from None
    if not isinstance(found, Mapping):
        raise InputError(f"{what} {path} holds no settings; write one `name: value` a line")
    return {str(name): value for name, value in found.items()}


def beside_screen(screen: str | Path, given: Iterable[str] = ()) -> dict[str, Any]:
    """The settings of the screen.yaml beside a screen, where there is one, without those that are given.

    Raises:
        InputError: for whatever in it cannot be used.
    """
    given = set(given)
    path = screen_folder(screen) / FILE
    if not path.is_file():
        return {}
    found = read_settings(path, "settings of the screen,")
    check_settings(found, path)
    # Splits are drawn or stand in a column, so that one takes the place of the other.
    gone = given | ({"split", "split_column"} if given & {"split", "split_column"} else set())
    return {name: value for name, value in relative_to(path.parent, found).items() if name not in gone}


def screen_config(screen: str | Path, given: Mapping[str, Any] | None = None) -> ScreenConfig:
    """The settings of a screen: what is given by flag name, else its screen.yaml, else defaults.

    Raises:
        InputError: for whatever of them cannot be used.
    """
    given = dict(given or {})
    values = {**beside_screen(screen, given), **given, "screen": str(screen)}
    config: ScreenConfig = COMMON.section("screen", values)
    return config


def once(pairs: Iterable[tuple[str, Any]], flag: str) -> dict[str, Any]:
    """The mapping of pairs.

    Raises:
        InputError: if a key occurs twice.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"--{flag} has {key} twice; give it once")
        found[key] = value
    return found
