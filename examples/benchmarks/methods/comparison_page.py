"""The page of `compare_methods.py`: tests, tables and what is significant, from the records of its runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from comparison_rows import STEPS, table_rows

from abra_wilds.results.records import Record, aligned, class_mix_line, markdown
from abra_wilds.results.significance import Paired, holm, mean_std, paired_t, spread

SPLITS = ("val", "id_test", "test")
ADAPTED = "plate_bn_experiment"  # the adaptation that is compared: to whole experiments
Rows = Sequence[tuple[str, Record]]
Series = Mapping[int, float]  # seed -> percent


def entered(record: Record) -> str:
    """What entered a prediction beside the image and the training images."""
    c = record.consumed
    named = {"batch_statistics": "batch statistics", "test_images": "test images"}
    words = [text for name, text in named.items() if c[name]]
    return ", ".join([*words, *filter(None, [c["outside_data"]])]) or "-"


def by_prediction(rows: Rows) -> dict[tuple[str, str], dict[str, Series]]:
    """(row, adaptation) -> split -> seed -> percent."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for label, r in rows:
        found.setdefault((label, r.tta or "none"), {}).setdefault(r.split, {})[r.seed] = 100 * r.acc
    return found


def paired(a: Series, b: Series) -> Paired | None:
    """The test of a - b over the seeds that both have; None without any."""
    seeds = sorted(a.keys() & b.keys())
    return paired_t([a[s] for s in seeds], [b[s] for s in seeds]) if seeds else None


def difference(found: Paired | None) -> str:
    """A difference with its 95 % confidence interval."""
    if found is None:
        return "-"
    return f"{found.difference:+.1f}" + ("" if found.margin is None else f" ± {found.margin:.1f}")


def comparisons(rows: Rows) -> dict[tuple[str, str], tuple[str, Paired | None, float | None]]:
    """(row, adaptation) -> what it is compared with, the test on new experiments, and Holm's p over all.

    A prediction without adaptation is compared with an unadapted row, one adapted to whole experiments with
    an adapted one; other adaptations, to parts of experiments among them, are not tested.
    """
    found, result = by_prediction(rows), {}
    for label, tta in found:
        row = table_rows()[label]
        adapted = tta.partition("_min")[0] == ADAPTED
        reference = row.against_adapted if adapted else row.against
        if (adapted or tta == "none") and reference != label:
            other = found.get((reference, ADAPTED if adapted else "none"), {}).get("test", {})
            result[label, tta] = (reference, paired(found[label, tta].get("test", {}), other))
    return adjusted(result)


def adjusted(
    tests: Mapping[Any, tuple[str, Paired | None]],
) -> dict[Any, tuple[str, Paired | None, float | None]]:
    """Tests with Holm's p over all of them."""
    ps = {key: t.p for key, (_, t) in tests.items() if t is not None and t.p is not None}
    holms = dict(zip(ps, holm(list(ps.values())), strict=True))
    return {key: (name, t, holms.get(key)) for key, (name, t) in tests.items()}


def table(rows: Rows) -> list[list[str]]:
    """The cells of the table, its head first."""
    tests, found = comparisons(rows), by_prediction(rows)
    cells = [
        [
            *("row", "TTA", *SPLITS, "balanced test", "seeds", "epochs", "test - reference", "p (Holm)"),
            *("fwd/image", "seconds", "entered"),
        ]
    ]
    for (label, tta), of in found.items():
        records = [r for row, r in rows if (row, r.tta or "none", r.split) == (label, tta, "test")]
        accs = [spread(mean_std(list(of[split].values()))) if split in of else "-" for split in SPLITS]
        balanced = [100 * r.acc_balanced for r in records if r.acc_balanced is not None]
        accs.append(spread(mean_std(balanced)) if balanced else "-")
        name, test, p = tests.get((label, tta), ("", None, None))
        compared = f"{difference(test)} ({name})" if name else "-"
        forward = statistics.mean(r.consumed["forward_equivalents"] / r.consumed["images"] for r in records)
        seconds = statistics.mean(r.consumed["seconds"] for r in records)
        shown = "-" if p is None else f"{p:.2g}"
        cost = [f"{forward:.2f}", f"{seconds:.0f}", entered(records[0])]
        epochs = "/".join(map(str, sorted({r.epoch + 1 for r in records})))
        cells.append([label, tta, *accs, str(len(records)), epochs, compared, shown, *cost])
    return cells


def steps_table(rows: Rows) -> list[list[str]]:
    """What each part between ERM and ABRA adds on new experiments, unadapted and adapted."""
    found = by_prediction(rows)

    def test(one: str, other: str, tta: str) -> Paired | None:
        return paired(*(found.get((row, tta), {}).get("test", {}) for row in (one, other)))

    tests = adjusted(
        {
            (part, tta): (before, test(row, before, tta))
            for part, row, before in STEPS
            for tta in ("none", ADAPTED)
        }
    )
    cells = [["added", "between", "none", "p (Holm)", ADAPTED, "p (Holm)"]]
    for part, row, before in STEPS:
        shown = []
        for tta in ("none", ADAPTED):
            _, t, p = tests[part, tta]
            shown += [difference(t), "-" if p is None else f"{p:.2g}"]
        cells.append([part, f"{row.split()[0]} - {before.split()[0]}", *shown])
    return cells


def verdict(rows: Rows) -> str:
    """Which differences are significant at 5 % after Holm, and which are not, in words."""
    above, below, open_, untested = (
        "Significantly above their reference",
        "Significantly below it",
        "Not significant at 5 % after Holm",
        "Without a test, because there are too few seeds or no spread",
    )
    found: dict[str, list[str]] = {above: [], below: [], open_: [], untested: []}
    for (label, tta), (reference, test, p) in comparisons(rows).items():
        name = f"{label} ({'unadapted' if tta == 'none' else tta}) - {reference}: {difference(test)}"
        if test is None or p is None:
            found[untested].append(name)
        elif p >= 0.05:
            found[open_].append(name)
        else:
            found[above if test.difference > 0 else below].append(name)
    return "\n\n".join(f"**{title}:** {'; '.join(names) or 'none'}." for title, names in found.items())


def as_text(cells: Sequence[Sequence[str]]) -> str:
    """The table for a terminal."""
    return f"Accuracy in percent on simulated data\n{aligned(cells, left=len(cells[0]))}\n"


def as_page(rows: Rows, screen: str) -> str:
    """The tables as a page, with what they were made of.

    Args:
        rows: the records.
        screen: name of the simulator's preset.
    """
    records = [record for _, record in rows]
    sizes = {r.split: r.n for r in records}
    commits = ", ".join(sorted({r.commit[:7] + ("+changes" if "+" in r.commit else "") for r in records}))
    mixes = class_mix_line(records)
    numbers = ", ".join(f"{split} {sizes[split]:,}" for split in SPLITS)
    return f"""# Methods and test-time adaptation on simulated data

Simulated: the screen "{screen}" of `abra-wilds simulate`. It says nothing about biology, and a few epochs of
a small network say little about long training of a large one. Made by
`examples/benchmarks/methods/compare_methods.py`; what single methods needed is in
`examples/benchmarks/methods/comparison_rows.py`.

Accuracy in percent after the last epoch: mean ± sample standard deviation over seeds. Images: {numbers}.
All rows predict by batch-norm statistics that were re-estimated on all training images, or by the
adaptation that is named. balanced test: mean over the classes of the accuracy on each. test - reference:
mean of the differences by seed on new experiments with its 95 % confidence interval, and what it is
compared with. p (Holm): two-sided paired t-test, adjusted for all tests of the table. fwd/image: cost of
training for each image drawn, in predictions of one image. seconds: of training, on one CPU thread beside
other work. entered: what a prediction read besides its image and the training images.
Code: {commits}.{f" {mixes}." if mixes else ""}

{markdown(table(rows))}

## Which differences are significant

{verdict(rows)}

## What each part between ERM and ABRA adds

Differences by seed on new experiments, without adaptation and adapted to whole experiments; p is adjusted for
the tests of this table.

{markdown(steps_table(rows))}
"""
