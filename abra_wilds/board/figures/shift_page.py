"""The page of verdicts on adaptation under label shift, from its values alone."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from abra_wilds.analysis.verdicts import (
    NEAR,
    ROUNDING,
    Advised,
    Rows,
    advised,
    by_model,
    means,
    verdicts,
)
from abra_wilds.results.records import markdown

EXPLAINED = """Of each bio-batch n images were drawn several times, whose classes follow Dirichlet(alpha); of
a class with fewer images than that all were taken, and "drawn" is how many came out. An adaptation takes what
was drawn for a whole bio-batch, and is used from two images on, whatever --tta_min. With "controls=" all
controls of the bio-batch go along; they are scored where they were drawn.

First table: whether it cannot hurt, which is to lose at most 1 point to none in any cell and 3 in any
bio-batch; change to none, in points of accuracy, in its worst cell (of alpha and n; mean over models), its
worst cell of one model, and its worst bio-batch (mean over cells, and over models of the same data); share of
the cells in which it is the best or within 1 point of it, of those that have no more controls than it has;
what it keeps of plate_bn's gain on whole bio-batches as they are. Second table: accuracy / mean recall of the
classes that were drawn, in percent."""
ADVISED = """Advice of {adapter} on {cells} cells of single models, of 2 images or more: it names the better
of adapting and not, or one within 1 point of it, in {right:.0f} %; adapting always does in {always:.0f} %.
Followed draw by draw, it is within 1 point of the better in {near:.0f} % of the cells, and at most
{worst:.1f} below."""


def verdict_cells(rows: Rows) -> list[list[str]]:
    """The verdicts as a table, its head first."""
    head = ["TTA", "cannot hurt", "worst cell", "of one model", "worst bio-batch", "near best", "gain kept"]
    return [
        head,
        *(
            [
                *(v.adapter, "yes" if v.harmless else "no"),
                *(f"{0 - loss:+.1f}" for loss in (v.cell, v.cell_of_model, v.bio_batch)),
                *(f"{100 * v.near_best:.0f} %", "-" if v.kept is None else f"{100 * v.kept:.0f} %"),
            ]
            for v in verdicts(rows)
        ),
    ]


def accuracy_cells(rows: Rows) -> list[list[str]]:
    """Accuracy and mean recall in percent by cell and adaptation, the head first."""
    found = means(rows)
    names = list(dict.fromkeys(m.adapter for m in found))
    places = {(m.adapter, m.alpha, m.size): f"{100 * m.acc:.1f} / {100 * m.balanced_acc:.1f}" for m in found}
    cells = [["alpha", "n", "drawn", *names]]
    for alpha, n, images in dict.fromkeys((m.alpha, m.size, m.images) for m in found):
        of = [shown(alpha, "inf"), shown(n, "all"), f"{images:.1f}"]
        cells.append([*of, *(places[name, alpha, n] for name in names)])
    return cells


def advice_cells(advice: Advised) -> list[list[str]]:
    """What was advised against what was better, the head first."""
    head = ["advice", "adapting gains more than 1 point", "within 1 point", "loses more"]
    return [head, *([words, *map(str, counts)] for words, counts in advice.counts.items())]


def advice_sentence(advice: Advised) -> str:
    """How often it was right."""
    shares = {
        "right": advice.right,
        "always": advice.right_if_always,
        "near": sum(lack >= -NEAR - ROUNDING for lack in advice.followed),
    }
    found = {name: 100 * count / advice.cells for name, count in shares.items()}
    worst = 0 - min(advice.followed)
    return ADVISED.format(adapter=advice.adapter, cells=advice.cells, worst=worst, **found)


def shown(value: float | None, absent: str) -> str:
    """An alpha or a size, as flags take it.

    >>> shown(0.1, "inf"), shown(None, "all")
    ('0.1', 'all')
    """
    return absent if value is None else f"{value:g}"


def page(title: str, series: Mapping[str, Rows]) -> str:
    """A page in Markdown with the verdicts and accuracies of several rows of models.

    Args:
        title: of the page.
        series: name -> the rows of all its models.

    Raises:
        InputError: if grids differ within one.
    """
    first = next(iter(series.values()))[0]
    paragraphs = EXPLAINED.split("\n\n")
    if first["simulated"]:
        paragraphs[0] = f"Simulated data. {paragraphs[0]}"
    parts = [f"# {title}", *(textwrap.fill(text, 110, break_on_hyphens=False) for text in paragraphs)]
    for name, rows in series.items():
        parts += [
            f"## {name}",
            of_models(rows),
            markdown(verdict_cells(rows)),
            markdown(accuracy_cells(rows)),
        ]
        for advice in advised(rows):
            sentence = textwrap.fill(advice_sentence(advice), 110, break_on_hyphens=False)
            parts += [sentence, markdown(advice_cells(advice))]
    return "\n\n".join(parts) + "\n"


def of_models(rows: Rows) -> str:
    """What models and draws some rows are of, as a sentence."""
    first, n = rows[0], len(by_model(rows))
    seeds = sorted({row["seed"] for row in rows})
    folds = len({row["data_sha256"] for row in rows})
    of = [f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"]
    of += [f"{folds} folds or data sets"] if folds > 1 else []
    draws = f"{first['draws']} draw{'s' if first['draws'] > 1 else ''}"
    models = f"{n} model{'s' if n > 1 else ''} ({'; '.join(of)})"
    return f"{models}, {draws} of each {first['group']} of {first['split']}."
