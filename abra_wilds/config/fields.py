"""A dataclass field that is also a command-line flag, and the check of its value."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from abra_wilds.errors import InputError

KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "key=value pairs",
}
VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


@dataclass(frozen=True)
class Flag:
    """How a field appears on the command line, and what it may hold; many values are at least one, or unset.

    Attributes:
        help: one sentence.
        kind: what one value is: str, int, float, bool or dict (key=value pairs).
        many: whether the flag takes several values.
        name: the flag without dashes; None means the field's own name (methods put theirs in front).
        choices: what each value may be, or None.
        at_least, above: the lower end of each value's range, inside it or outside; at most one of the two.
        at_most, below: the same of the upper end, which only a range with a lower end has.
        infinite: whether inf is a number to it.
        distinct: whether its values must differ.
        local: whether it says where or how a run happens, without changing its numbers.
        later: whether it came after digests were recorded, which leave it out where it is the default.
        path: whether it is a path, in which `~` and variables are expanded.
    """

    help: str
    kind: type
    many: bool = False
    name: str | None = None
    choices: Sequence[Any] | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    infinite: bool = False
    distinct: bool = False
    local: bool = False
    later: bool = False
    path: bool = False

    @property
    def range(self) -> str:
        """The allowed numbers in words, or "".

        >>> Flag("", float, above=0, infinite=True).range, Flag("", float, at_least=0, below=1).range
        ('positive, or inf', 'in [0, 1)')
        """
        low = self.above if self.at_least is None else self.at_least
        high = self.below if self.at_most is None else self.at_most
        if low is None:
            return ""
        if high is not None:
            left, right = "[" if self.above is None else "(", "]" if self.below is None else ")"
            return f"in {left}{low:g}, {high if isinstance(high, int) else f'{high:g}'}{right}"
        least = "positive" if self.above == 0 else f"above {low:g}" if self.above else f"{low:g} or more"
        return least + (", or inf" if self.infinite else "")

    def holds(self, number: float) -> bool:
        """Whether a number lies in the range; nan lies in none."""
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )


def option(default: Any, help: str, kind: type | None = None, **flag: Any) -> Any:
    """A field with this default and its flag; kind is the default's type unless given."""
    many = isinstance(default, tuple)
    if kind is None:
        kind = type(default[0]) if many and default else type(default)
    metadata = {"flag": Flag(help, kind, many, **flag)}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """A part of a configuration, whose fields are flags; a bad value of one is refused.

    A subclass checks in its `__post_init__`, after this one's, what several fields must be together.

    Attributes:
        prefix: what stands before the fields' names in those of their flags.
    """

    prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_fields(self)


def flag_of(f: Field[Any]) -> Flag:
    """The flag a field stands for."""
    flag: Flag = f.metadata["flag"]
    return flag


def flag_name(options: type[Options], f: Field[Any]) -> str:
    """The name of a field's flag: as WILDS has it, else the field's, with the prefix of its options."""
    return flag_of(f).name or options.prefix + f.name


def default_of(f: Field[Any]) -> Any:
    """The default of a dataclass field."""
    return f.default_factory() if f.default_factory is not MISSING else f.default


def expanded(text: str, name: str = "the path") -> str:
    """A path with `~` and environment variables expanded, wherever it was written.

    Raises:
        InputError: with `name`, for a variable that is not set, unless that is how the path is really called.
    """
    found = os.path.expanduser(os.path.expandvars(text))
    unset = VARIABLE.search(found)
    if unset and not os.path.exists(found):
        raise InputError(f"{name} {text} has {unset[0]}, which is not set; set it, or write the path out")
    return found


def path(text: str) -> Path:
    """`expanded` as the type of an argument of argparse.

    Raises:
        argparse.ArgumentTypeError: for a variable that is not set.
    """
    try:
        return Path(expanded(text))
    except InputError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None


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
    if isinstance(value, str) and "\0" in value:
        raise InputError(f"--{name} must be text without null bytes; got {value!r:.60}")
    if not isinstance(value, flag.kind) or (flag.kind is int and isinstance(value, bool)):
        raise InputError(f"--{name} must be {KINDS[flag.kind]}; got {value!r}")
    return expanded(str(value), f"--{name}") if flag.path else value


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


def check_fields(options: Options) -> None:
    """`require` of every field what its flag allows; a field that may be unset is checked where it is set.

    Raises:
        InputError: with the flag's name, for the first value that is not allowed.
    """
    for f in fields(options):
        flag, name, got = flag_of(f), flag_name(type(options), f), getattr(options, f.name)
        values = got if flag.many else () if got is None else (got,)
        for value in values:
            if flag.choices is not None:
                require_choice(name, value, flag.choices)
            require(flag.holds(value), name, flag.range, value)
            finite = flag.kind is not float or flag.infinite or math.isfinite(value)
            require(finite, name, "a finite number", value)
        if flag.many and default_of(f):
            require(len(got) > 0, name, "one value or more", got)
        if flag.distinct:
            require(len(got) == len(set(got)), name, "distinct values", got)
