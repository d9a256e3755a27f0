"""Tables 2-6 of the paper from run folders, published numbers beside ours; needs neither torch nor data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from abra_wilds.board.tables.formats import FORMATS
from abra_wilds.board.tables.notes import notes
from abra_wilds.board.tables.rows import (
    PLATE,
    TABLE_NUMBERS,
    Budget,
    Comparison,
    RowKey,
    Table,
    TableLayout,
    TableRow,
    layout,
)
from abra_wilds.board.terms import EQUAL, differing_terms, terms_in_words, terms_of
from abra_wilds.errors import InputError
from abra_wilds.results.files import make_out, write_text
from abra_wilds.results.finished import all_entries
from abra_wilds.results.records import class_mix_line
from abra_wilds.results.runs import Entry, Run, by_settings, differing, refuse_mixture, refuse_other_data
from abra_wilds.results.significance import holm, paired_t

GroupsOfRows = dict[RowKey, list[list[Entry]]]


def build_tables(
    runs: Sequence[Run],
    numbers: Iterable[int] = TABLE_NUMBERS,
    *,
    backbones: Sequence[str] = (),
    tta: str = PLATE,
    split_settings: bool = False,
) -> list[Table]:
    """Tables of the paper, from runs.

    Args:
        runs: of any method, seed and table.
        numbers: of the tables.
        backbones: in place of each table's own.
        tta: the adaptation that stands for the paper's, by plates.
        split_settings: several settings of a method become rows of their own, otherwise they are refused.

    Raises:
        InputError: for rows that would average unlike runs, tables that would compare unlike data, or when no
            run belongs to any of the tables.
    """
    entries = all_entries(runs)
    silent = ["/".join(run.path.parts[-3:]) for run in runs if not any(e.run is run for e in entries)]
    tables = [
        build_table(wanted, entries, silent, backbones=backbones, split_settings=split_settings)
        for wanted in (layout(number).adapted_by(tta) for number in numbers)
    ]
    if all(row.missing for table in tables for row in table.rows):
        asked = (
            f"Table {t.layout.number} ({t.layout.dataset}, {t.layout.split_scheme}, {backbone})"
            for t in tables
            for backbone in t.backbones
        )
        found = {
            f"{e.record.dataset}, {e.settings.get('split_scheme')}, {e.record.backbone}" for e in entries
        }
        raise InputError(
            f"no run belongs to {', '.join(asked)}; found {'; '.join(sorted(found)) or 'no record'}; give "
            "other runs, or name their backbone by --backbone"
        )
    return tables


def build_table(
    wanted: TableLayout,
    entries: Sequence[Entry],
    silent: Sequence[str] = (),
    *,
    backbones: Sequence[str] = (),
    split_settings: bool = False,
) -> Table:
    """One table.

    Args:
        wanted: what the paper's shows.
        entries: of all runs; those of other tables are passed over.
        silent: runs without a record, for the notes.
        backbones: in place of the table's own.
        split_settings: several settings of a method become rows of their own.

    Raises:
        InputError: for rows that would average unlike runs, or a table that would compare unlike data.
    """
    taken = [e for e in entries if wanted.fits(e, backbones) and wanted.shows(e)]
    refuse_unlike(taken)
    groups = grouped(taken, split_settings)
    rows = []
    for printed in wanted.rows:
        of_row = groups.pop(printed.key, [])
        missing = TableRow(printed.name, printed.key, printed.backbone, False, {}, None, printed)
        rows += [
            replace(our_row(wanted, group, printed.name + settings), published=printed)
            for group, settings in labelled(of_row)
        ] or [missing]
    for key, of_row in sorted(groups.items(), key=lambda item: (item[0][1] is not None, str(item[0]))):
        rows += [our_row(wanted, group, f"{key[0]}{settings}") for group, settings in labelled(of_row)]
    table = Table(wanted, tuple(backbones) or (wanted.backbone,), tuple(compared(rows, wanted)), ())
    left_out = [e for e in entries if wanted.of_same_data(e) and not wanted.fits(e, backbones)]
    mixes = class_mix_line(e.record for e in taken)
    return replace(table, notes=tuple(notes(table, left_out, silent, mixes)))


def refuse_unlike(entries: Sequence[Entry]) -> None:
    """Raise if a table would compare simulated data with real data, or splits of different sizes.

    Raises:
        InputError: with two folders.
    """
    real = [e for e in entries if not e.record.simulated]
    simulated = [e for e in entries if e.record.simulated]
    if real and simulated:
        raise InputError(
            f"{simulated[0].folder} is on simulated data and {real[0].folder} is not, and no table compares "
            "them; give a folder of runs on one data set"
        )
    refuse_other_data(entries)


def grouped(entries: Iterable[Entry], split_settings: bool) -> GroupsOfRows:
    """Entries that differ in seed and split alone, by method and adaptation.

    Raises:
        InputError: for several settings of one method, unless they are wanted as rows of their own.
    """
    groups: GroupsOfRows = {}
    for group in by_settings(entries):
        groups.setdefault((group[0].record.method, group[0].record.tta), []).append(group)
    for several in groups.values():
        if len(several) > 1 and not split_settings:
            try:
                refuse_mixture({group[0].folder: group[0].settings for group in several})
            except InputError as fault:
                raise InputError(f"{fault}, or show each as a row of its own by --split_settings") from None
    return groups


def labelled(groups: Sequence[list[Entry]]) -> list[tuple[list[Entry], str]]:
    """Groups of one method, each with what tells it from the others; nothing where it is alone."""
    settings = [group[0].settings for group in groups]
    names = sorted(differing(settings))
    return [
        (group, " [" + ", ".join(f"{name} {s.get(name)}" for name in names) + "]" if names else "")
        for group, s in zip(groups, settings, strict=True)
    ]


def our_row(wanted: TableLayout, group: Sequence[Entry], label: str) -> TableRow:
    """A row of runs that differ in the seed alone."""
    accs: dict[str, dict[int, float]] = {}
    for column, (split, name) in {**wanted.columns, **wanted.score_columns}.items():
        records = [e.record for e in group if e.record.split == split]
        found = {r.seed: r.acc if name is None else r.scores.get(name) for r in records}
        by_seed = {seed: 100 * acc for seed, acc in found.items() if acc is not None}
        if by_seed:
            accs[column] = by_seed
    first = group[0].record
    row = TableRow(
        label, (first.method, first.tta), first.backbone, first.simulated, accs, budget(group), None
    )
    commits = tuple(dict.fromkeys(e.record.commit for e in group))
    return replace(row, commits=commits, terms=terms_of(group[0].settings, group[0].epoch))


def budget(group: Sequence[Entry]) -> Budget:
    """What the runs of a row consumed, once for each seed."""
    spent = list({e.record.seed: e.record.consumed for e in group}.values())
    counts = [(c.get("images"), c.get("forward_equivalents")) for c in spent]
    outside = ", ".join(sorted({str(c.get("outside_data", "not recorded") or "none") for c in spent}))
    if any(None in pair for pair in counts):
        return Budget(None, None, outside)
    images, forwards = (fmean(column) for column in zip(*counts, strict=True))
    return Budget(images, forwards / images if images else None, outside)


def compared(rows: Sequence[TableRow], wanted: TableLayout) -> list[TableRow]:
    """The rows, each with its test against its reference and Holm's adjustment over them all."""
    result = [replace(row, comparison=comparison(row, rows, wanted)) for row in rows]
    ps = {
        i: c.result.p
        for i, row in enumerate(result)
        if (c := row.comparison).result and c.result.p is not None
    }
    for i, p in zip(ps, holm(list(ps.values())), strict=True):
        result[i] = replace(result[i], comparison=replace(result[i].comparison, p_holm=p))
    return result


def comparison(row: TableRow, rows: Sequence[TableRow], wanted: TableLayout) -> Comparison:
    """A row against its reference, or why not."""
    reference = wanted.reference(row.key)
    name = "ERM" if reference[1] is None else "AdaBN"
    if row.missing:
        return Comparison()
    found = [other for other in rows if other.key == reference and not other.missing]
    if row.key == reference:
        return Comparison(untested="reference" if len(found) == 1 else f"one of {len(found)} references")
    if len(found) != 1:
        return Comparison(name, untested=f"{len(found) or 'no'} rows of {name}")
    differs = tuple(differing_terms(row.terms, found[0].terms))
    unequal = [term for term in differs if term in EQUAL]
    if unequal:
        return Comparison(name, untested=f"unlike {name} in {terms_in_words(unequal)}", differs=differs)
    a, b = (r.accs.get(wanted.tested, {}) for r in (row, found[0]))
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        return Comparison(name, untested=f"no seed with {name}", differs=differs)
    result = paired_t([a[s] for s in seeds], [b[s] for s in seeds])
    why = None if result.p is not None else "one seed" if len(seeds) == 1 else "same difference by all seeds"
    return Comparison(name, seeds, result, untested=why, differs=differs)


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write every table in every format.

    Raises:
        InputError: if the folder cannot be made.
    """
    files: Mapping[Path, str] = {
        folder / f"table_{table.layout.number}.{ending}": form(table)
        for table in tables
        for ending, form in FORMATS.items()
    }
    make_out(folder)
    for path, text in files.items():
        write_text(path, text)
