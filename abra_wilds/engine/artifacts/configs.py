"""A run's configuration out of the content of a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from abra_wilds.config.run import RunConfig, schema_of
from abra_wilds.errors import InputError
from abra_wilds.methods import get_method


def run_config_of(content: Mapping[str, Any], path: Path) -> RunConfig:
    """The configuration in a config.json; what an older version did not record is the default.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        InputError: if it holds none.
    """
    values = content.get("values", {})
    algorithm, preset, origin = values.get("algorithm"), content.get("preset"), content.get("origin")
    if not isinstance(algorithm, str) or not isinstance(preset, str) or not isinstance(origin, dict):
        raise InputError(
            f"{path} is missing or names no algorithm, preset and origin; restore it from the run"
        )
    config = RunConfig(algorithm, preset, origin, **schema_of(get_method(algorithm).Config).build(values))
    return replace(config, loop=values.get("loop", config.loop), world=values.get("world", config.world))
