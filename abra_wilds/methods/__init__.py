"""The table of methods, in the order in which the paper's tables print them."""

from __future__ import annotations

from abra_wilds.errors import InputError
from abra_wilds.methods.abra import ABRA
from abra_wilds.methods.base import Method
from abra_wilds.methods.coral import DeepCORAL
from abra_wilds.methods.erm import ERM
from abra_wilds.methods.group_dro import GroupDRO
from abra_wilds.methods.irm import IRM

METHODS: dict[str, type[Method]] = {m.name: m for m in (ERM, ABRA, DeepCORAL, GroupDRO, IRM)}


def get_method(name: str) -> type[Method]:
    """The method called `name`.

    Raises:
        InputError: if there is none.
    """
    if name not in METHODS:
        raise InputError(f"unknown algorithm {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
