"""One HTML page about runs, from their records, logs and predictions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from abra_wilds.board.report.certificates import HEADER as CERTIFICATE_HEADER
from abra_wilds.board.report.certificates import certified, verdict
from abra_wilds.board.report.curves import curve_pictures
from abra_wilds.board.report.embeddings import embedding_tables
from abra_wilds.board.report.figures import Embedded, read_figures
from abra_wilds.board.report.parts import (
    Group,
    class_mixes,
    commands,
    consumption,
    gains,
    headline,
    paper_tables,
    provenance,
    read_groups,
    results,
    summary,
)
from abra_wilds.board.report.screen import (
    SHADES,
    all_scored,
    by_experiment,
    by_plate,
    confusions,
    least_right,
    plates,
    read_screen,
    split_name,
)
from abra_wilds.errors import InputError
from abra_wilds.results.runs import Run

TEMPLATES = Path(__file__).parent / "templates"


def report(
    runs: Sequence[Run], root: Path | None = None, figures: Path | None = None, split_settings: bool = False
) -> str:
    """The page as HTML.

    Args:
        runs: on one data set.
        root: --root_dir of the data, the table or folder of a screen, or None to leave out what needs it.
        figures: a folder of figures.py, or None.
        split_settings: show several settings of a method as rows of their own.

    Raises:
        InputError: if runs, data or figures cannot be read, or runs do not belong together.
    """
    groups = read_groups(runs, split_settings)
    listed = {e.run.path for g in groups for e in g.entries}
    shown, strange = ([], []) if figures is None else figures_of(figures, runs)
    methods = list(dict.fromkeys(run.values["algorithm"] for run in runs))
    found = certified(groups)
    return render(
        "report.html.j2",
        title=f"Report: {', '.join(methods) if len(methods) < 6 else f'{len(methods)} methods'}",
        simulated=groups[0].entries[0].record.simulated,
        summary=summary(runs, groups),
        gains=gains(groups),
        silent=[str(run.path) for run in runs if run.path not in listed],
        results=results(groups),
        class_mixes=class_mixes(groups),
        paper_tables=paper_tables(groups),
        curves=curve_pictures(groups),
        certified=found,
        verdict=verdict(found),
        certificate_header=CERTIFICATE_HEADER,
        reviewed=embedding_tables(runs),
        screen=None if root is None else screen_parts(groups, root),
        figures=shown,
        strange=strange,
        consumption=consumption(groups),
        commands=commands(runs, groups),
        provenance=provenance(groups),
    )


def render(template: str, **values: Any) -> str:
    """A page of one of our templates; text in it is escaped, and a value that it lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def screen_parts(groups: Sequence[Group], root: Path) -> dict[str, Any]:
    """What needs the data's rows: accuracies by experiment, plate and well, and confusions.

    Raises:
        InputError: if it is not the data of the runs.
    """
    best, split = headline(groups)
    first = best.entries[0]
    screen = read_screen(root, first.record.dataset, first.run.values)
    splits = dict.fromkeys([split, *(s for g in groups for s in g.splits)])
    rows = all_scored(best, split, screen)
    maps, caption = plates(rows, screen.least)
    return {
        "split": split_name(split),
        "label": best.label,
        "experiments": [(split_name(s), by_experiment(groups, s, screen)) for s in splits],
        "least_right": least_right(rows, best.label),
        "by_plate": by_plate(rows),
        "plates": maps,
        "plates_caption": caption,
        "legend": [f"{100 * k // SHADES} to {100 * (k + 1) // SHADES} %" for k in range(SHADES)],
        "confusions": [
            (g.label, g.checkpoint, confusions(all_scored(g, split, screen), screen.names))
            for g in sorted(groups, key=lambda g: g is not best)
            if g.of(split)
        ],
    }


def figures_of(folder: Path, runs: Sequence[Run]) -> tuple[list[Embedded], list[str]]:
    """The figures of a folder that show these runs alone, and the names of the others.

    Raises:
        InputError: for a figure that cannot be read.
    """
    digests = {run.config["digest"] for run in runs}
    found = [(figure, models_of(folder / f"{figure.name}.csv")) for figure in read_figures(folder)]
    ours = [figure for figure, models in found if models <= digests]
    return ours, [figure.name for figure, models in found if not models <= digests]


def models_of(values: Path) -> set[str]:
    """Digests of the configurations whose models a figure shows; none for Figures 5 and 6, which name none.

    Raises:
        InputError: if the values cannot be read.
    """
    try:
        with values.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        raise InputError(f"{values} cannot be read; make the figures again") from None
    return {row["config_sha256"] for row in rows if "config_sha256" in row}


def figures_folder(asked: Path | None, runs: Path) -> Path | None:
    """Where figures.py has written, or None.

    Raises:
        InputError: if a folder was asked for and has none.
    """
    folder = asked or runs.resolve().parent / "figures"
    if any(folder.glob("figure_*.png")):
        return folder
    if asked is not None:
        raise InputError(f"--figures {asked} holds no figure of figures.py; make them, or leave the flag out")
    return None
