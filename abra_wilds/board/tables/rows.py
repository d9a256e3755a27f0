"""What a table is made of: the data, columns and rows of the paper's Tables 2-6, and a row of our runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import mode
from typing import Any

from abra_wilds.results.records import BALANCED
from abra_wilds.results.runs import Entry
from abra_wilds.results.significance import Paired, least_paired, mean_std, welch, welch_range

PUBLISHED = Path(__file__).parents[1] / "published.json"
ARXIV = "arXiv 2603.05622"
TABLE_NUMBERS = (2, 3, 4, 5, 6)
SPLIT_HEADERS = {"val": "Val", "id_test": "Test ID", "test": "Test OOD"}
SCORE_HEADERS = {
    BALANCED: "Balanced",
    "acc_treatments": "Treatments",
    "acc_well": "Wells",
    "acc_well_treatments": "Treatment wells",
}
DATASETS = {"rxrx1": "RxRx1-WILDS", "rxrx1_6ch": "RxRx1 with six channels"}
RowKey = tuple[str | None, str | None]
Figures = tuple[float, float, int]
PLATE = "plate_bn"


@dataclass(frozen=True)
class PublishedRow:
    """A row as the paper prints it.

    Attributes:
        name: as printed.
        key: method and adaptation of ours that come closest; the method is None where we have none.
        backbone: in our names.
        accs: column -> mean and standard deviation in percent.
        seeds: their number.
        p: as the paper prints it, or None.
        footnote: of the audit, or None.
    """

    name: str
    key: RowKey
    backbone: str
    accs: Mapping[str, tuple[float, float]]
    seeds: int
    p: float | None
    footnote: str | None

    def figures(self, column: str) -> Figures:
        """Mean, standard deviation and number of seeds."""
        return (*self.accs[column], self.seeds)


@dataclass(frozen=True)
class TableLayout:
    """What a table of the paper shows.

    Attributes:
        number: of the table.
        dataset: its data set.
        split_scheme: of the data set.
        backbone: that of most rows.
        columns: header -> split and cell line, the latter None for the accuracy over all images.
        tested: the column that is tested.
        rows: in the paper's order.
        tta: the adaptation of ours that stands for the paper's.
    """

    number: int
    dataset: str
    split_scheme: str
    backbone: str
    columns: Mapping[str, tuple[str, str | None]]
    tested: str
    rows: tuple[PublishedRow, ...]
    tta: str = PLATE

    def adapted_by(self, tta: str) -> TableLayout:
        """The same with another adaptation in place of `tta`."""
        rows = (replace(row, key=(row.key[0], tta)) if row.key[1] == self.tta else row for row in self.rows)
        return replace(self, rows=tuple(rows), tta=tta)

    def reference(self, key: RowKey) -> RowKey:
        """What a row is tested against: as in the paper, ERM without adaptation and AdaBN with."""
        return "ERM", None if key[1] is None else self.tta

    @property
    def score_columns(self) -> dict[str, tuple[str, str]]:
        """Columns beside the paper's for scores that not all records have: header -> split and score."""
        return {header: (self.columns[self.tested][0], name) for name, header in SCORE_HEADERS.items()}

    @property
    def checkpoint(self) -> str:
        """The official scheme of six channels has no val, so the last epoch counts there."""
        return "last" if (self.dataset, self.split_scheme) == ("rxrx1_6ch", "official") else "best"

    @property
    def data(self) -> str:
        """Data set and splits in words."""
        splits = [name for name in SPLIT_HEADERS if name in {split for split, _ in self.columns.values()}]
        return f"{DATASETS[self.dataset]}, {', '.join(SPLIT_HEADERS[name] for name in splits)}"

    @property
    def source(self) -> str:
        """Where the published numbers stand."""
        return f"{ARXIV}, Table {self.number}"

    def of_same_data(self, entry: Entry) -> bool:
        """Whether an entry is of the table's data set."""
        return entry.record.dataset == self.dataset

    def fits(self, entry: Entry, backbones: Sequence[str]) -> bool:
        """Whether an entry is of the table's data and backbone.

        Args:
            entry: of a run.
            backbones: in place of the table's; methods that the paper runs on another keep that too.
        """
        r = entry.record
        own = {row.backbone for row in self.rows if row.key == (r.method, r.tta)} - {self.backbone}
        return (
            self.of_same_data(entry)
            and entry.settings.get("split_scheme") == self.split_scheme
            and r.backbone in {*(backbones or [self.backbone]), *own}
        )

    def shows(self, entry: Entry) -> bool:
        """Whether an entry is of a split and checkpoint that the table shows."""
        r = entry.record
        return r.checkpoint == self.checkpoint and r.split in {split for split, _ in self.columns.values()}

    def printed_pair(self, row: PublishedRow) -> tuple[Figures, Figures] | None:
        """The printed figures of a row and of its reference; None for a reference."""
        (reference,) = [r for r in self.rows if r.key == self.reference(row.key)] or [row]
        return None if reference is row else (row.figures(self.tested), reference.figures(self.tested))

    def welch(self, row: PublishedRow) -> tuple[float, float, float] | None:
        """The p of Welch's test of a printed row, its least and its most; None where there is no test."""
        two = self.printed_pair(row)
        if two is None:
            return None
        p, between = welch(*two), welch_range(*two)
        return None if p is None or between is None else (p, *between)

    def too_small(self, row: PublishedRow) -> bool:
        """Whether the printed p is below every p that a paired test of the printed figures could give."""
        two = self.printed_pair(row)
        return row.p is not None and two is not None and row.p < least_paired(*two)


@cache
def layout(number: int) -> TableLayout:
    """One of the paper's tables, from published.json."""
    rows = [row for row in _published() if row["table"] == number]
    first = rows[0]
    columns: dict[str, tuple[str, str | None]] = {cell: (first["split"], cell) for cell in first["cells"]}
    columns["Total"] = (first["split"], None)
    if not first["cells"]:
        columns = {header: (split, None) for split, header in SPLIT_HEADERS.items()}
    together: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for row in rows:
        together.setdefault((row["row"], row["tta"]), []).append(row)
    return TableLayout(
        number,
        first["dataset"],
        first["split_scheme"],
        mode(row["backbone"] for row in rows),
        columns,
        list(columns)[-1],
        tuple(_published_row(parts) for parts in together.values()),
    )


@cache
def _published() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"]
    return rows


def _published_row(parts: Sequence[dict[str, Any]]) -> PublishedRow:
    """One row from its lines in published.json, one for each split."""
    first = parts[0]
    accs = {cell: tuple(figures) for cell, figures in first["cells"].items()}
    for part in parts:
        accs["Total" if part["cells"] else SPLIT_HEADERS[part["split"]]] = tuple(part["total"])
    key = (first["method"], first["tta"])
    return PublishedRow(
        first["row"], key, first["backbone"], accs, first["seeds"], first["p"], first["footnote"]
    )


@dataclass(frozen=True)
class Budget:
    """What the runs of a row consumed.

    Attributes:
        images: training images drawn, mean over seeds; None where a run did not count them.
        forwards: the cost of training for each of them, in predictions of one image.
        outside: what else the first weights have seen.
    """

    images: float | None
    forwards: float | None
    outside: str


@dataclass(frozen=True)
class Comparison:
    """A row against its reference.

    Attributes:
        against: name of the reference.
        seeds: those that both have.
        result: None where there is no reference to compare with.
        p_holm: adjusted over the comparisons of the table.
        untested: why there is no p.
        differs: terms in which the two differ.
    """

    against: str | None = None
    seeds: tuple[int, ...] = ()
    result: Paired | None = None
    p_holm: float | None = None
    untested: str | None = None
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        label: the paper's name, or ours where the paper has no such row, with what tells settings apart.
        key: method and adaptation.
        backbone: that of the runs, or the paper's where there is none.
        simulated: whether the runs are on simulated data.
        accs: column -> seed -> percent; empty where the row is missing.
        budget: None where the row is missing.
        published: the paper's row, None where it has none.
        comparison: with the row that the paper compares with.
        terms: on which it was made (terms.py).
        commits: of the source that the records were computed by.
    """

    label: str
    key: RowKey
    backbone: str
    simulated: bool
    accs: Mapping[str, Mapping[int, float]]
    budget: Budget | None
    published: PublishedRow | None
    comparison: Comparison = Comparison()
    commits: tuple[str, ...] = ()
    terms: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missing(self) -> bool:
        """Whether there is no run of it."""
        return not self.accs

    def seeds(self, column: str) -> tuple[int, ...]:
        """Seeds with an accuracy in a column."""
        return tuple(sorted(self.accs.get(column, {})))

    def mean_std(self, column: str) -> tuple[float, float | None] | None:
        """Mean and sample standard deviation in percent, None where there is no accuracy."""
        found = self.accs.get(column)
        return mean_std(list(found.values())) if found else None


@dataclass(frozen=True)
class Table:
    """A table, whatever it is printed as.

    Attributes:
        layout: what the paper's table shows.
        backbones: of our runs.
        rows: the paper's in its order, then those it has not.
        notes: what a reader must know, one sentence or two each.
    """

    layout: TableLayout
    backbones: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]

    @property
    def simulated(self) -> bool:
        """Whether any row is on simulated data."""
        return any(row.simulated for row in self.rows)

    @property
    def columns(self) -> list[str]:
        """Headers of our accuracies: the paper's, then those of other scores that any row has."""
        found = [c for c in self.layout.score_columns if any(c in row.accs for row in self.rows)]
        return [*self.layout.columns, *found]

    @property
    def title(self) -> str:
        """One line; simulated data comes first."""
        mark = "SIMULATED DATA: " if self.simulated else ""
        shown = f"Table {self.layout.number}: accuracy in percent on {self.layout.data}"
        return f"{mark}{shown}, {', '.join(self.backbones)}"
