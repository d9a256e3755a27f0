"""The parts of a screen that are predicted one by one: plates, or bio-batches where those are adapted to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from abra_wilds.config.datasets import TTA_GROUPS
from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.data.datasets.catalogue import make_grouper
from abra_wilds.data.samplers.batches import RowIds, members_of

if TYPE_CHECKING:
    from abra_wilds.data.screens.dataset import ScreenDataset


@dataclass(frozen=True)
class Unit:
    """A part of a screen that is predicted whole or not at all.

    Attributes:
        name: of its files, without ending; names sort as the units stand in the screen's table.
        rows: of the screen.
    """

    name: str
    rows: RowIds


def unit_of(e: EvalConfig) -> str:
    """What a unit is, "plate" or "experiment": images whose statistics are taken together stay together."""
    return "plate" if e.tta in ("none", "batch_bn") else e.tta_group


def units_of(dataset: ScreenDataset, e: EvalConfig) -> list[Unit]:
    """The units of a screen, in the order of its table.

    Args:
        dataset: the screen.
        e: which adaptation.
    """
    kind = unit_of(e)
    grouper = make_grouper(dataset, TTA_GROUPS[kind])
    members = members_of(grouper.metadata_to_group(dataset.metadata_array).numpy())
    at = dataset.metadata_fields.index(kind)
    names, codes = dataset.metadata_map[kind], dataset.metadata_array[:, at]
    return [
        Unit(f"{k:05}_{file_word(str(names[int(codes[rows[0]])]))}", rows)
        for k, rows in enumerate(members.values())
    ]


def file_word(text: str) -> str:
    """A text as part of a file's name, on any system.

    >>> file_word("BR 11/6:991")
    'BR-11-6-991'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:60]


def part_of(dataset: ScreenDataset, rows: RowIds) -> ScreenDataset:
    """Some rows of a screen, as a screen of their own."""
    from abra_wilds.data.screens.dataset import ScreenDataset

    s = dataset.sites
    light = None if s.illumination is None else s.illumination[rows]
    sites = replace(s, rows=s.rows.iloc[rows], references=s.references[rows], illumination=light)
    part = ScreenDataset(sites, dataset.config, dataset.class_names, labelled=False)
    part.pack = dataset.pack
    return part


def in_turn(units: Sequence[Unit], rank: int, world: int) -> list[Unit]:
    """The units in the order in which one of several processes asks for them: its own first.

    >>> [unit.name for unit in in_turn([Unit(n, None) for n in "abcde"], 1, 2)]
    ['b', 'd', 'a', 'c', 'e']
    """
    own = list(units[rank::world])
    return own + [unit for k, unit in enumerate(units) if k % world != rank]
