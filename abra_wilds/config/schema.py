"""Fields as flags and as JSON: names, canonical text and digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import Field
from typing import Any

from abra_wilds.config.fields import Flag


def canonical(values: Mapping[str, Any]) -> str:
    """The one JSON text of some values."""
    return json.dumps(jsonable(values), sort_keys=True, separators=(",", ":"))


def digest_of(values: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of values that can change a number."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def flag_of(f: Field[Any]) -> Flag:
    """The flag a field stands for."""
    flag: Flag = f.metadata["flag"]
    return flag


def flag_name(f: Field[Any], algorithm: str | None = None) -> str:
    """The flag's name: as WILDS has it, else the field's, which follows its method's name."""
    if flag_of(f).name:
        return str(flag_of(f).name)
    if not algorithm or not flag_of(f).of_method:
        return f.name
    return f"{flag_name_prefix(algorithm)}{f.name}"


def flag_name_prefix(algorithm: str) -> str:
    """What stands before the names of a method's own flags.

    >>> flag_name_prefix("IID-lite")
    'iid_lite_'
    """
    return f"{algorithm.lower().replace('-', '_')}_"


def jsonable(value: Any) -> Any:
    """The value in JSON's types; infinities become strings, because JSON has none."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
