"""The page inside a submission's archive: what was run, how, and what came out, by its records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from abra_wilds.board.bundle.archives import BUNDLED_SPLITS, SEEDS
from abra_wilds.board.reproduce import made_by, predicting, training
from abra_wilds.results.records import BALANCED, class_mix_line
from abra_wilds.results.runs import Entry
from abra_wilds.results.significance import spread_of

Nine = Mapping[tuple[str, int], Entry]
SIMULATED_MARK = """> **SIMULATED DATA. NOT A SUBMISSION.** The images of these predictions were made by a
> simulator; the numbers say nothing about biology or about RxRx1.

"""
RULES = "https://wilds.stanford.edu/submit/"


def readme(nine: Nine, reasons: Sequence[str], given: Mapping[str, str | None]) -> str:
    """The page as Markdown.

    Args:
        nine: {(split, seed): entry}.
        reasons: what makes the row non-standard.
        given: contact, paper_url and code_url, None where not given.
    """
    first = nine[BUNDLED_SPLITS[0], SEEDS[0]]
    r = first.record
    tta = "" if r.tta is None else f" with test-time adaptation {r.tta}"
    mark = SIMULATED_MARK if r.simulated else ""
    parts = [
        f"# {r.method}{tta} on RxRx1-WILDS\n\n{mark}{summary_section(nine, reasons, given)}",
        f"## Results\n\n{results_section(nine)}",
        f"## Commands\n\n{commands_section(nine)}",
        f"## Code\n\n{code(nine)}",
        f"## Settings\n\n{settings(first)}",
        f"## Data\n\n{data(first)}",
    ]
    return "\n".join(parts)


def summary_section(nine: Nine, reasons: Sequence[str], given: Mapping[str, str | None]) -> str:
    """What it is, in a list."""
    first = nine[BUNDLED_SPLITS[0], SEEDS[0]]
    r = first.record
    epochs = ", ".join(str(nine[BUNDLED_SPLITS[0], seed].record.epoch) for seed in SEEDS)
    consumed = {
        "Method": f"{r.method}; unofficial, a re-implementation by others than the method's authors",
        "Submission": f"non-standard: {'; '.join(reasons)}" if reasons else "standard",
        "Model": r.backbone,
        "First weights": r.consumed["outside_data"] or "random",
        "Seeds": ", ".join(map(str, SEEDS)),
        "Model selection": f"the epoch with the best {first.settings['val_metric']} on the official OOD "
        f"validation split `val`: {epochs} for these seeds, counted from 0",
        "Contact": given["contact"] or "not given",
        "Paper": given["paper_url"] or "not given",
        "Code": given["code_url"] or "not given",
    }
    why = (
        f"The rules are those of {RULES}: test data enter neither training nor selection.\n"
        "For a standard row `val` selects and is not trained on, no data are added (weights from ImageNet\n"
        "are customary), and no batch statistics are used at evaluation.\n"
    )
    return "".join(f"- {name}: {text}\n" for name, text in consumed.items()) + f"\n{why}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Cells as a Markdown table, the head first."""
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows]
    return head + "|---" * len(rows[0]) + "|\n" + "".join(body)


def results_section(nine: Nine) -> str:
    """Accuracy by split and cell line over seeds, and each seed's."""
    cells = sorted({cell for e in nine.values() for cell in e.record.acc_by_cell})
    rows = [["split", "images", "average", "balanced", *cells]]
    for split in BUNDLED_SPLITS:
        records = [nine[split, seed].record for seed in SEEDS]
        others = [
            spread_of([r.scores[name] for r in records]) if all(name in r.scores for r in records) else "-"
            for name in (BALANCED, *cells)
        ]
        rows.append([f"`{split}`", f"{records[0].n:,}", spread_of([r.acc for r in records]), *others])
    seeds = [["seed", *(f"`{split}`" for split in BUNDLED_SPLITS)]]
    seeds += [
        [str(s), *(f"{100 * nine[split, s].record.acc:.2f}" for split in BUNDLED_SPLITS)] for s in SEEDS
    ]
    mixes = class_mix_line(e.record for e in nine.values())
    return (
        "Accuracy in percent: mean ± sample standard deviation (divided by n - 1) over the seeds; balanced: "
        "the\nmean over the classes of the accuracy on each.\n\n"
        f"{table(rows)}\n{table(seeds)}" + (f"\n{mixes}.\n" if mixes else "")
    )


def commands_section(nine: Nine) -> str:
    """What was typed, as the runs recorded it, and for adapted rows the prediction."""
    lines = []
    for seed in SEEDS:
        entry = nine[BUNDLED_SPLITS[0], seed]
        lines.append(training(entry.run))
        if entry.folder != entry.run.path:
            lines.append(predicting(entry))
    return "```\n" + "\n".join(lines) + "\n```\n"


def code(nine: Nine) -> str:
    """Commits and versions; several where they are not the same for all predictions."""
    found = made_by(e.record for e in nine.values())
    source = found.pop("commit")
    return f"Commit {source}. Versions: {', '.join(f'{name} {v}' for name, v in found.items())}.\n"


def settings(entry: Entry) -> str:
    """Every value that can change a number, but the seed, and where it came from."""
    origin: Mapping[str, Any] = entry.run.config["origin"]
    rows = [["flag", "value", "from"]]
    for name, value in entry.settings.items():
        same = entry.run.settings.get(name) == value
        rows.append([f"`{name}`", json.dumps(value), origin.get(name, "-") if same else "prediction"])
    return table(rows)


def data(entry: Entry) -> str:
    """Which data, under which licence."""
    version = entry.settings["version"] or "1.0"
    name = "Simulated in the format of RxRx1-WILDS" if entry.record.simulated else "RxRx1-WILDS"
    return (
        f"{name} {version} with its official splits. RxRx1 is licensed CC BY-NC-SA 4.0 by Recursion. This\n"
        "archive holds predicted class numbers alone, one a line in the data set's order, and no image.\n"
    )
