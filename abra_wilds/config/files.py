"""YAML files of settings, in which a text is what stands there: 001, no and 1.10 are names. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from abra_wilds.config.run import COMMON
from abra_wilds.errors import InputError

# Settings whose texts are the user's; those of methods have choices.
TEXTS = frozenset(
    name for name, s in COMMON.settings.items() if s.flag.kind is str and s.flag.choices is None
)


def read_yaml(path: Path, what: str, texts: Iterable[str] = ()) -> Any:
    """The content of a YAML file.

    Args:
        path: of the file.
        what: the flag or argument that names it, for messages.
        texts: names besides TEXTS whose values are texts.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return _load(path.read_text(encoding="utf-8"), TEXTS.union(texts))
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"{what} {path} cannot be read ({fault}); give a YAML file") from None
    except yaml.YAMLError as fault:
        raise InputError(f"{what} {path} is no YAML ({str(fault).splitlines()[0]}); correct it") from None


def _load(text: str, texts: frozenset[str]) -> Any:
    class Loader(yaml.SafeLoader):
        """YAML's own types, but for the values of texts."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            for key, value in node.value:
                if key.value in texts:
                    for scalar in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                        _as_written(scalar)
            return super().construct_mapping(node, deep)

    return Loader(text).get_single_data()


def _as_written(node: yaml.Node) -> None:
    """Make a node's value its text, unless it has none."""
    if isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null":
        node.tag = "tag:yaml.org,2002:str"
