"""A dataclass field that is also a command-line flag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from abra_wilds.errors import InputError

KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "key=value pairs",
}


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


def typed(name: str, value: Any, flag: Flag, default: Any = None) -> Any:
    """A value in its flag's type, however it was written: 1 is 1.0 for a float, one name is a tuple of one.

    Raises:
        InputError: if it is of another type.
    """
    if value is None and default is None:
        return None
    if flag.many:
        values = value if isinstance(value, list | tuple) else [value]
        single = replace(flag, many=False)
        return tuple(typed(name, v, single, default=()) for v in values)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if flag.kind is float and (number or isinstance(value, str)):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            pass
    if flag.kind is str and number:
        return str(value)
    if not isinstance(value, flag.kind) or (flag.kind is int and isinstance(value, bool)):
        raise InputError(f"--{name} must be {KINDS[flag.kind]}; got {value!r}")
    return value


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
