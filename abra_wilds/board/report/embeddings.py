"""What a report says of embeddings: the metrics of the model beside those of what no training gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abra_wilds.analysis.metrics.cells import METRICS_FILE, caveats_of, cells_of
from abra_wilds.errors import InputError
from abra_wilds.results.runs import Run


@dataclass(frozen=True)
class Reviewed:
    """The metrics of one set of embeddings.

    Attributes:
        caption: whose they are.
        header: of the table.
        rows: embeddings.
        caveats: a line each.
    """

    caption: str
    header: list[str]
    rows: list[list[str]]
    caveats: list[str]


def embedding_tables(runs: Sequence[Run]) -> list[Reviewed]:
    """The metrics that `abra-wilds embed --metrics` has left in folders of runs.

    Raises:
        InputError: for a file that cannot be read.
    """
    return [
        read_table(run, path) for run in runs for path in sorted(run.path.glob(f"embed_*/{METRICS_FILE}"))
    ]


def read_table(run: Run, path: Path) -> Reviewed:
    """One file as text.

    Raises:
        InputError: if it holds no metrics.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["metrics"]
        header, rows = cells_of(entries)
        caption = f"{content['method']}, seed {run.seed}, {path.parent.name}, {', '.join(content['splits'])}"
        return Reviewed(caption, header, rows, caveats_of(entries))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} holds no metrics that a report can show; remove it and embed again with --metrics"
        ) from None
