"""The flags of a configuration by name, and what is made of their values: sections, JSON, a digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from abra_wilds.config.fields import Flag, Options, default_of, flag_name, flag_of, typed

Config = TypeVar("Config")


@dataclass(frozen=True)
class Setting:
    """One flag of a configuration.

    Attributes:
        section: the name of its section.
        field: the name of its field there.
        flag: what it may hold, and how it appears on the command line.
        default: its value where nothing decides otherwise.
    """

    section: str
    field: str
    flag: Flag
    default: Any

    def typed(self, name: str, value: Any) -> Any:
        """A value as the field holds it; what of key=value pairs is not given is as by default.

        Raises:
            InputError: if it is of another type.
        """
        value = typed(name, value, self.flag, self.default)
        return {**self.default, **value} if self.flag.kind is dict else value

    def without_effect(self, value: Any) -> bool:
        """Whether digests leave this value out, which may be JSON's, with lists for tuples."""
        return self.flag.local or (self.flag.later and jsonable(value) == jsonable(self.default))


class Schema:
    """What a configuration consists of.

    Attributes:
        sections: name of each section -> its dataclass.
        settings: flag name -> setting, in the order of sections and fields.
    """

    def __init__(self, sections: Mapping[str, type[Options]]):
        self.sections = dict(sections)
        self.settings = {
            flag_name(kind, f): Setting(section, f.name, flag_of(f), default_of(f))
            for section, kind in sections.items()
            for f in fields(kind)
        }

    def of(self, section: str) -> dict[str, Setting]:
        """The settings of one section, by flag name."""
        return {name: setting for name, setting in self.settings.items() if setting.section == section}

    def given(self, section: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Field -> value in its type, of those values that belong to a section.

        Raises:
            InputError: for a value of another type.
        """
        return {
            s.field: s.typed(name, values[name]) for name, s in self.of(section).items() if name in values
        }

    def section(self, section: str, values: Mapping[str, Any]) -> Any:
        """One section with values by flag name, defaults where they say nothing.

        Raises:
            InputError: for a value that is not allowed.
        """
        return self.sections[section](**self.given(section, values))

    def build(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Every section's name and `section`."""
        return {section: self.section(section, values) for section in self.sections}

    def replace(self, config: Config, values: Mapping[str, Any]) -> Config:
        """A configuration whose sections are attributes of these names, with other values by flag name.

        Raises:
            InputError: for a value that is not allowed.
        """
        parts = {s: replace(getattr(config, s), **self.given(s, values)) for s in self.sections}
        return replace(config, **parts)  # type: ignore[type-var]

    def flatten(self, config: Any, local: bool = True) -> dict[str, Any]:
        """Flag name -> value of such a configuration; without `local` only what can change a number."""
        values = {name: getattr(getattr(config, s.section), s.field) for name, s in self.settings.items()}
        return values if local else self.that_count(values)

    def that_count(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of values by flag name those that can change a number; what is no setting here stays."""
        known = self.settings
        return {
            name: value
            for name, value in values.items()
            if name not in known or not known[name].without_effect(value)
        }

    def defaults(self) -> dict[str, Any]:
        """Flag name -> default."""
        return {name: s.default for name, s in self.settings.items()}


def canonical(values: Mapping[str, Any]) -> str:
    """The one JSON text of some values."""
    return json.dumps(jsonable(values), sort_keys=True, separators=(",", ":"))


def digest_of(values: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of values that can change a number."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def jsonable(value: Any) -> Any:
    """The value in JSON's types; infinities become strings, because JSON has none."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
