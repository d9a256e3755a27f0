"""What stands under a table: how it was made, what it lacks, and what the published numbers do not tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from abra_wilds.board.tables.rows import (
    PLATE,
    SCORE_HEADERS,
    SPLIT_HEADERS,
    PublishedRow,
    Table,
    TableRow,
)
from abra_wilds.results.records import BALANCED
from abra_wilds.results.runs import Entry

SIMULATED_NOTE = (
    "SIMULATED DATA: the images of our numbers were made by a simulator. They say nothing about RxRx1, "
    "and comparing them with the published ones is meaningless."
)


def notes(
    table: Table, left_out: Sequence[Entry], silent: Sequence[str], class_mixes: str = ""
) -> Iterator[str]:
    """The notes of a table, one after the other.

    Args:
        table: without notes.
        left_out: entries of the table's data set that do not fit it.
        silent: runs without a record.
        class_mixes: of the table's splits, in a line; empty where no record says them.
    """
    if table.simulated:
        yield SIMULATED_NOTE
    yield from _ours(table)
    if class_mixes:
        yield f"{class_mixes}."
    yield from _gaps(table)
    others = sorted(
        {
            f"{e.record.method} by {e.record.backbone}, {e.settings.get('split_scheme')} splits"
            for e in left_out
        }
    )
    if others:
        yield f"Runs on this data set that are not of this table: {'; '.join(others)}."
    if silent:
        yield f"Runs without a record yet: {', '.join(silent)}."
    yield from _published(table)
    for mark, text in footnotes(table).items():
        yield f"[{mark}] {text}"


def _ours(table: Table) -> Iterator[str]:
    """How our numbers were made."""
    wanted = table.layout
    epoch = "the epoch that is best on val" if wanted.checkpoint == "best" else "the last epoch (no val)"
    yield (
        "Ours: mean and sample standard deviation (n - 1) over seeds, in percent, as predicted after "
        f"{epoch}. One seed has no standard deviation and no test."
    )
    tests = sum(row.comparison.p_holm is not None for row in table.rows)
    yield (
        f"p: two-sided paired t-test of {wanted.tested} by seed, as under the paper's Table 2: rows without "
        f"test-time adaptation (TTA) against ERM, others against AdaBN, which is ERM with {wanted.tta}. "
        f"p (Holm): adjusted for the {tests} tests of this table. Difference: mean of the paired differences "
        "in points; d_z: that by their standard deviation. Where all seeds differ by the same amount, t is "
        "undefined and there is no p."
    )
    yield (
        "BN: whether running batch-norm statistics predict, or those re-estimated on all training images. "
        "Epoch: the last one, or the best on val: by the accuracy that the row reports (own val), or by "
        "another (val by ...). Rows that differ from their reference in either, or in their splits, are not "
        "tested."
    )
    split, _ = wanted.columns[wanted.tested]
    if SCORE_HEADERS[BALANCED] in table.columns:
        yield (
            f"Balanced: of {SPLIT_HEADERS[split]}, the mean over its classes of the accuracy on each, which "
            "the class mix does not move."
        )
    if "Wells" in table.columns:
        yield (
            f"Treatments, Wells and Treatment wells are of {SPLIT_HEADERS[split]}. "
            "Treatments: images of treatments alone, with no other class to choose from, as the 2019 "
            "competition on RxRx1 scored them. Wells: by the mean probabilities of a well's sites. Treatment "
            "wells: wells of treatments, by both rules."
        )
    yield from _terms(table)
    yield (
        "Images: training images drawn, mean over seeds. Forwards/image: the cost of training for each, in "
        "predictions of one image. Outside data: what else the first weights have seen. A dash: not known."
    )


def _terms(table: Table) -> Iterator[str]:
    """In what else than the method rows differ from their references."""
    rows = {(row.key, row.label): row for row in table.rows}
    references = {row.key: row for row in rows.values() if not row.missing}
    for row in rows.values():
        differs = row.comparison.differs
        if differs:
            other = references[table.layout.reference(row.key)]
            unlike = [
                f"{name} {_shown(row.terms[name])} (not {_shown(other.terms[name])})" for name in differs
            ]
            yield f"{row.label}{_adapted(row)} differs from {row.comparison.against} in {', '.join(unlike)}."


def _adapted(row: TableRow) -> str:
    return f" with {row.key[1]}" if row.key[1] else ""


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def _gaps(table: Table) -> Iterator[str]:
    """What is missing or uneven."""
    wanted = table.layout
    if any(row.missing for row in table.rows):
        yield "Rows that say missing are the paper's and have no run here."
    for row in table.rows:
        seeds, paired = row.seeds(wanted.tested), row.comparison.seeds
        uneven = [c for c in wanted.columns if not row.missing and row.seeds(c) != seeds]
        if uneven:
            own = f"{row.label}: seeds {_listed(seeds)} in {wanted.tested}, and others or none in"
            yield f"{own} {', '.join(uneven)}."
        if len(row.commits) > 1:
            yield f"{row.label}: computed by several commits of the source, {', '.join(row.commits)}."
        if paired and paired != seeds:
            yield f"{row.label}: compared by seeds {_listed(paired)}, which {row.comparison.against} has too."


def _published(table: Table) -> Iterator[str]:
    """Where the published numbers are from, and what they do not tell."""
    wanted = table.layout
    printed = [(row, row.published) for row in table.rows if row.published]
    yield (
        f"Published ({wanted.source}): means and standard deviations as the paper prints them, of its own "
        "runs and settings."
    )
    others = sorted({p.backbone for row, p in printed if p.backbone != row.backbone})
    if others:
        yield f"Where our backbone is another one, the published numbers are by {', '.join(others)}."
    if wanted.tta != PLATE:
        yield f"The paper adapts to plates; beside those of its rows stand ours with {wanted.tta}."
    if any(p.p is not None for _, p in printed):
        yield (
            "Published p: as the paper prints it. Its Table 2 says: of two-sided t-tests paired by seed, "
            "without adaptation against ERM and with it against AdaBN; the captions of other tables do not "
            "say it again."
        )
    yield (
        "Published p (Welch): computed here from the printed means, standard deviations and numbers of "
        "seeds, as if seeds were not paired, with the range that their rounding leaves. A paired test needs "
        "the accuracy of each seed, which is not printed."
    )
    small = [_name(p) for _, p in printed if wanted.too_small(p)]
    if small:
        yield (
            f"The published p of {', '.join(small)} is smaller than any such test can give with the printed "
            "means and standard deviations, however the seeds vary together: it was computed from other "
            "figures, or by another test."
        )
    wide = [_name(p) for _, p in printed if (w := wanted.welch(p)) and w[2] > 10 * w[1]]
    if wide:
        yield f"Rounding alone leaves that p open by more than a factor of ten for {', '.join(wide)}."


def _name(printed: PublishedRow) -> str:
    return printed.name + (" with TTA" if printed.key[1] else "")


def footnotes(table: Table) -> dict[str, str]:
    """Letter -> footnote of the audit, in the order of rows."""
    texts = dict.fromkeys(r.published.footnote for r in table.rows if r.published and r.published.footnote)
    return {chr(ord("a") + i): str(text) for i, text in enumerate(texts)}


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"
