"""A dataclass field that is also a command-line flag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from abra_wilds.types import InputError


@dataclass(frozen=True)
class Flag:
    """How a field appears on the command line.

    Attributes:
        help: one sentence.
        kind: what one value is: str, int, float, bool or dict (key=value pairs).
        many: whether the flag takes several values.
        name: the flag without dashes; None means the field's own name (methods put theirs in front).
        choices: allowed values, or None.
        local: whether it says where or how a run happens, without changing its numbers.
        of_method: whether the field belongs to a method, whose name then stands before the field's.
    """

    help: str
    kind: type
    many: bool = False
    name: str | None = None
    choices: Sequence[Any] | None = None
    local: bool = False
    of_method: bool = False


def option(default: Any, help: str, kind: type | None = None, **flag: Any) -> Any:
    """A field with this default and its flag; kind is the default's type unless given."""
    many = isinstance(default, tuple)
    if kind is None:
        kind = type(default[0]) if many and default else type(default)
    metadata = {"flag": Flag(help, kind, many, **flag)}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def method_option(default: Any, help: str, **flag: Any) -> Any:
    """`option` for a hyper-parameter of a method."""
    return option(default, help, of_method=True, **flag)


def default_of(f: Any) -> Any:
    """The default of a dataclass field."""
    return f.default_factory() if f.default_factory is not MISSING else f.default


def require(ok: bool, flag: str, allowed: str, got: Any) -> None:
    """Raise the one sentence of a bad value unless ok.

    Raises:
        InputError: if not ok.
    """
    if not ok:
        raise InputError(f"--{flag} must be {allowed}; got {got!r}")


def require_choice(flag: str, got: Any, choices: Sequence[Any] | Mapping[Any, Any]) -> None:
    """`require` for a value out of a list."""
    require(got in choices, flag, f"one of {', '.join(map(str, choices))}", got)


def check_choices(config: Any, prefix: str = "") -> None:
    """`require_choice` for every field that lists its choices; prefix stands before their names."""
    for f in fields(config):
        flag: Flag = f.metadata["flag"]
        got = getattr(config, f.name)
        for value in got if flag.many else (got,):
            if flag.choices is not None:
                require_choice(flag.name or prefix + f.name, value, flag.choices)
