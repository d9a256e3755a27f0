"""The records of a sweep's finished runs in one file, each with its row, for `abra-wilds claims`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from abra_wilds.board.sweep.plan import Planned
from abra_wilds.board.sweep.state import FINISHED, RunState, adaptation_folder, of_digest
from abra_wilds.results.files import make_out, write_text
from abra_wilds.results.records import RESULTS, Record, read_records, read_rows

KEYS = ("row", "config_sha256", "data_sha256", "split")


def collect(planned: Sequence[Planned], path: Path) -> str:
    """Add what is finished of a sweep to a file of records; returns a line that says how much there is.

    What the file has already stays; new records replace those of the same row, settings and data.

    Args:
        planned: the sweep's runs.
        path: of the file, made where it is not there.

    Raises:
        InputError: if the file holds something else, or cannot be written.
    """
    rows = {key_of(r): r for r in read_rows(path, KEYS, "a sweep")}
    new = [{"row": run.label, **asdict(r)} for run in planned for r in finished(run)]
    rows |= {key_of(r): r for r in new}
    make_out(path.parent)
    write_text(path, "".join(json.dumps(r) + "\n" for r in rows.values()))
    return f"{path} holds {len(rows)} records, {len(new)} of them of runs in this folder"


def finished(run: Planned) -> Iterator[Record]:
    """The records that count of a run and its adaptations; none until all of it is there."""
    state = RunState(run)
    if state.stage != FINISHED or state.to_adapt:
        return
    found = list(state.records)
    for adaptation in run.adaptations:
        found += of_digest(read_records(adaptation_folder(run, adaptation) / RESULTS), adaptation.digest)
    yield from (r for r in found if r.checkpoint == run.checkpoint)


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What there is one record of."""
    return tuple(row[name] for name in KEYS)
