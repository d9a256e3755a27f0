"""What a report says in words and tables: rows of results, what they consumed, commands, versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from abra_wilds.board.reproduce import made_by, predicting, training
from abra_wilds.board.tables.build import build_table, grouped, labelled, refuse_unlike
from abra_wilds.board.tables.formats import html_table
from abra_wilds.board.tables.rows import DATASETS, TABLE_NUMBERS, layout
from abra_wilds.errors import InputError
from abra_wilds.results.finished import all_entries
from abra_wilds.results.records import BALANCED, class_mix_line, counted
from abra_wilds.results.runs import SPLIT_NAMES, Entry, Run
from abra_wilds.results.significance import mean_std, spread

# The split a report speaks of first.
FIRST = ("test", "id_test", "val")
COUNTED = {
    "images": "Training images",
    "steps": "Steps",
    "forward_equivalents": "Training in forward passes",
    "seconds": "Seconds",
    "labels": "Labels",
}
ENTERED = {
    "batch_statistics": "Batch statistics",
    "test_images": "Test images",
    "outside_data": "Outside data",
}


@dataclass(frozen=True)
class Group:
    """Records that differ in seed and split alone.

    Attributes:
        label: method, adaptation, and what tells settings apart where one method has several.
        entries: of any seed and split.
    """

    label: str
    entries: tuple[Entry, ...]

    @property
    def checkpoint(self) -> str:
        """The epoch that was predicted with: "best", "last" or a number."""
        return self.entries[0].record.checkpoint

    @property
    def splits(self) -> list[str]:
        """Splits with a record, the first of a report first."""
        there = dict.fromkeys(e.record.split for e in self.entries)
        return [s for s in FIRST if s in there] + [s for s in there if s not in FIRST]

    @property
    def trained(self) -> bool:
        """Whether its records are the run's own and not those of an adaptation afterwards."""
        return all(e.folder == e.run.path for e in self.entries)

    @property
    def runs(self) -> set[Path]:
        """Folders of the runs whose models predicted."""
        return {e.run.path for e in self.entries}

    def of(self, split: str) -> list[Entry]:
        """The entries of a split, by seed."""
        return sorted((e for e in self.entries if e.record.split == split), key=lambda e: e.record.seed)

    def spread(self, split: str, score: str | None = None) -> tuple[float, float | None] | None:
        """Mean and sample standard deviation over seeds in percent, of one of `Record.scores` or of `acc`."""
        records = [e.record for e in self.of(split)]
        accs = [r.acc if score is None else r.scores.get(score) for r in records]
        found = [100 * acc for acc in accs if acc is not None]
        return mean_std(found) if found else None


def read_groups(runs: Sequence[Run], split_settings: bool = False) -> list[Group]:
    """The rows of a report.

    Args:
        runs: of any method and seed, on one data set.
        split_settings: several settings of a method become rows of their own, otherwise they are refused.

    Raises:
        InputError: for damaged records, runs on different data, or several settings of a method.
    """
    entries = all_entries(runs)
    if not entries:
        raise InputError("no run in the folder has a record yet; give a folder with finished runs")
    refuse_unlike(entries)
    named = [
        Group(label(group[0].record.method, group[0].record.tta) + settings, tuple(group))
        for same in grouped(entries, split_settings).values()
        for group, settings in labelled(same)
    ]
    return sorted(named, key=lambda group: group.checkpoint != "best")


def label(method: str, tta: str | None) -> str:
    """A method with its adaptation."""
    return method if tta is None else f"{method} + {tta}"


def headline(groups: Sequence[Group]) -> tuple[Group, str]:
    """The row with the highest mean, and on which split: OOD test where it was predicted."""
    shown = [g for g in groups if g.checkpoint == groups[0].checkpoint]
    split = next(s for s in [*FIRST, *shown[0].splits] if any(g.of(s) for g in shown))
    return max((g for g in shown if g.of(split)), key=lambda g: (g.spread(split) or (0.0, None))[0]), split


def summary(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    """What was run and which row is highest, in a few sentences."""
    best, split = headline(groups)
    r = best.entries[0].record
    plain = [g for g in groups if g.entries[0].record.tta is None]
    methods = dict.fromkeys(run.values["algorithm"] for run in runs)
    backbones = dict.fromkeys(e.record.backbone for g in groups for e in g.entries)
    data = DATASETS.get(r.dataset, r.dataset)
    on = f"a simulated screen in the format of {data}" if r.simulated else data
    message = (
        f"{counted(len(runs), 'run')} of {', '.join(methods)} on {on}, with {', '.join(backbones)}. "
        f"Highest on {SPLIT_NAMES.get(split, split)} is {score_of(best, split)}."
    )
    if best in plain or not plain:
        return message
    return f"{message} Highest without test-time adaptation is {score_of(*headline(plain))}."


def score_of(group: Group, split: str) -> str:
    """A row and its accuracy in words."""
    balanced = group.spread(split, BALANCED)
    share = f"balanced {spread(balanced)} %, " if balanced else ""
    return (
        f"{group.label}: {spread(group.spread(split))} % of {n_images(group, split)} images "
        f"({share}{counted(len(group.of(split)), 'seed')}, {group.checkpoint} epoch)"
    )


def n_images(group: Group, split: str) -> str:
    """The number of images of a split."""
    return f"{group.of(split)[0].record.n:,}"


def gains(groups: Sequence[Group]) -> str:
    """What the best adaptation of each method changes on the first split, in a sentence; "" without any."""
    first, split = headline(groups)
    shown = [g for g in groups if g.checkpoint == first.checkpoint and g.of(split)]
    said = []
    for plain in (g for g in shown if g.entries[0].record.tta is None):
        adapted = [g for g in shown if g.runs <= plain.runs and g is not plain]
        if adapted:
            best, _ = headline(adapted)
            means = [(g.spread(split) or (0.0, None))[0] for g in (best, plain)]
            said.append(f"{means[0] - means[1]:+.1f} points for {best.label}")
    if not said:
        return ""
    return (
        f"The best adaptation of each method, chosen on the same images, changes this by {', '.join(said)}."
    )


def results(groups: Sequence[Group]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Header, rows of the split and epoch that a report speaks of first, and all other rows.

    A row has accuracies over all images, balanced over classes, and by cell line.
    """
    cells = sorted({cell for g in groups for e in g.entries for cell in e.record.acc_by_cell})
    header = ["Method", "Split", "Epoch", "Images", "Seeds", "n", "All images", "Balanced", *cells]
    best, first = headline(groups)
    rows: tuple[list[list[str]], list[list[str]]] = ([], [])
    for split in dict.fromkeys([first, *FIRST, *(s for g in groups for s in g.splits)]):
        for group in (g for g in groups if g.of(split)):
            seeds = [e.record.seed for e in group.of(split)]
            named = [group.label, SPLIT_NAMES.get(split, split), group.checkpoint, n_images(group, split)]
            accs = [spread(group.spread(split, cell)) for cell in [None, BALANCED, *cells]]
            row = [*named, ", ".join(map(str, seeds)), str(len(seeds)), *accs]
            rows[(split, group.checkpoint) != (first, best.checkpoint)].append(row)
    return header, *rows


def class_mixes(groups: Sequence[Group]) -> str:
    """How far the class mix of each split's bio-batches varies, in a line."""
    return class_mix_line(e.record for g in groups for e in g.entries)


def paper_tables(groups: Sequence[Group]) -> list[str]:
    """Those of the paper's tables that these rows belong to, as HTML, published numbers beside ours."""
    entries = [e for g in groups for e in g.entries]
    wanted = [layout(number) for number in TABLE_NUMBERS]
    fitting = [w for w in wanted if any(w.fits(e, ()) and w.shows(e) for e in entries)]
    return [html_table(build_table(w, entries, split_settings=True)) for w in fitting]


def consumption(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what the runs of each row consumed, means over seeds."""
    rows = []
    for group in groups:
        spent = list({e.record.seed: e.record.consumed for e in group.entries}.values())
        row = [group.label, group.checkpoint, str(len(spent))]
        row += [mean_of(c.get(name) for c in spent) for name in COUNTED]
        row += [", ".join(dict.fromkeys(said(c, name) for c in spent)) for name in ENTERED]
        rows.append(row)
    return ["Method", "Epoch", "Seeds", *COUNTED.values(), *ENTERED.values()], rows


def mean_of(values: Iterable[Any]) -> str:
    """A mean with thousands separators; a dash where a run did not count."""
    there = list(values)
    return "-" if any(v is None for v in there) else f"{fmean(there):,.0f}"


def said(consumed: Mapping[str, Any], name: str) -> str:
    """Whether something entered a run."""
    if name not in consumed:
        return "not recorded"
    value = consumed[name]
    return "yes" if value is True else str(value or "no" if isinstance(value, bool) else value or "none")


def commands(runs: Sequence[Run], groups: Sequence[Group]) -> list[tuple[str, str]]:
    """(run, command) of every run as it was typed, and of every adaptation afterwards."""
    labels = {e.folder: g.label for g in groups for e in g.entries}
    lines = [
        (f"{labels.get(run.path, run.values['algorithm'])}, seed {run.seed}", training(run)) for run in runs
    ]
    adapted = {e.folder: e for g in groups for e in g.entries if e.folder != e.run.path}
    return lines + [(f"{labels[e.folder]}, seed {e.record.seed}", predicting(e)) for e in adapted.values()]


def provenance(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """(what, version) of the source and of the packages; several where the records disagree."""
    return list(made_by(e.record for g in groups for e in g.entries).items())
