"""Figs. 5 and 6: accuracies of runs that differ in one flag of ABRA, from their records."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abra_wilds.config.run import COMMON
from abra_wilds.config.schema import canonical
from abra_wilds.errors import InputError
from abra_wilds.results.finished import all_entries
from abra_wilds.results.runs import Entry, Run, by_settings

ORDER = ("res1", "res2", "res3", "res4", "ce", "arc", "js")
TERM_NAMES = {"ce": "CE", "arc": "Arc", "js": "JS"}
SHOWN_SPLITS = ("test", "id_test")


@dataclass(frozen=True)
class Bar:
    """The accuracy of one setting on one split.

    Attributes:
        setting: as the figure names it, such as "res3+res4".
        tta: name of the adaptation, or "none".
        split: such as "test".
        checkpoint: "best" or "last".
        mean: of the accuracies over seeds, as a fraction.
        std: their sample standard deviation; None for one seed.
        seeds: separated by spaces.
        simulated: whether the data are.
    """

    setting: str
    tta: str
    split: str
    checkpoint: str
    mean: float
    std: float | None
    seeds: str
    simulated: bool


def ablation(runs: Sequence[Run], flag: str) -> list[Bar]:
    """The bars of the runs that differ in a flag, seeds and adaptation alone.

    Args:
        runs: those of other methods are not looked at.
        flag: "abra_at" or "abra_terms".

    Raises:
        InputError: if no runs differ in it alone, several sets of runs do, or two would be the same bar.
    """
    entries = all_entries(run for run in runs if flag in run.values)
    label = "best" if any(e.record.checkpoint == "best" for e in entries) else "last"
    entries = [e for e in entries if e.record.checkpoint == label and e.record.split in SHOWN_SPLITS]
    groups = [g for group in by_settings(one_comparison(entries, flag)) for g in by_split(group)]
    refuse_same_bar(groups, flag)
    bars = [bar(entries, flag) for entries in groups]
    return sorted(
        bars, key=lambda b: (setting_order(b.setting), b.tta != "none", b.tta, SHOWN_SPLITS.index(b.split))
    )


def one_comparison(entries: Sequence[Entry], flag: str) -> list[Entry]:
    """The entries that a flag alone tells apart, but for seeds and adaptation.

    Raises:
        InputError: if there is no such set, or more than one.
    """
    free = {flag, *(name for name in COMMON.settings if name.startswith("tta"))}
    sets: dict[str, list[Entry]] = {}
    for e in entries:
        rest = {name: value for name, value in e.settings.items() if name not in free}
        sets.setdefault(canonical({**rest, "simulated": e.record.simulated}), []).append(e)
    wide = [group for group in sets.values() if len({setting_name(e.settings, flag) for e in group}) > 1]
    if not wide:
        raise InputError(
            f"no two runs of ABRA differ in --{flag} alone; run the settings that are to be compared"
        )
    if len(wide) > 1:
        a, b = (group[0] for group in wide[:2])
        differing = [n for n in a.settings if n not in free and a.settings[n] != b.settings.get(n)]
        raise InputError(
            f"--{flag} is compared more than once: {a.run.path} and {b.run.path} also differ in "
            f"{', '.join(differing) or 'their data'}; give a folder with one comparison"
        )
    return wide[0]


def refuse_same_bar(groups: Sequence[Sequence[Entry]], flag: str) -> None:
    """Raise if two groups would be drawn as one bar over another.

    Raises:
        InputError: with a folder of each.
    """
    seen: dict[tuple[str, str | None, str], Entry] = {}
    for first, *_ in groups:
        key = setting_name(first.settings, flag), first.record.tta, first.record.split
        known = seen.setdefault(key, first)
        if known is not first:
            raise InputError(
                f"{known.folder} and {first.folder} are both the bar {key[0]} of {key[2]}, whose settings "
                f"differ in the order of --{flag} or in the adaptation; keep one"
            )


def by_split(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries of each split together."""
    groups: dict[str, list[Entry]] = {}
    for e in entries:
        groups.setdefault(e.record.split, []).append(e)
    return list(groups.values())


def bar(entries: Sequence[Entry], flag: str) -> Bar:
    """One bar from entries that differ in the seed alone."""
    accs = [e.record.acc for e in entries]
    first = entries[0].record
    return Bar(
        setting=setting_name(entries[0].settings, flag),
        tta=first.tta or "none",
        split=first.split,
        checkpoint=first.checkpoint,
        mean=statistics.mean(accs),
        std=statistics.stdev(accs) if len(accs) > 1 else None,
        seeds=" ".join(str(seed) for seed in sorted(e.record.seed for e in entries)),
        simulated=first.simulated,
    )


def setting_name(settings: Mapping[str, Any], flag: str) -> str:
    """A setting as the figure names it, whatever the order in which it was given."""
    return "+".join(TERM_NAMES.get(part, part) for part in sorted(settings[flag], key=ORDER.index))


def setting_order(setting: str) -> tuple[int, list[int]]:
    """Fewer parts first, then in the order of the network or of the loss."""
    parts = [ORDER.index(part.lower()) for part in setting.split("+")]
    return len(parts), parts
