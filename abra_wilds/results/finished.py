"""Which records count: those of finished runs, and adaptations of the models that the runs have now.

What stands in a run folder may be older than its model: `--eval_only` scores a run in the middle of its
training, and a model is adapted before training goes on and finds a better one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from abra_wilds.config.run import OWN_LOOP
from abra_wilds.config.schema import canonical
from abra_wilds.errors import InputError
from abra_wilds.results.legacy import broken_off
from abra_wilds.results.records import Record
from abra_wilds.results.runs import Entry, Run, read_adapted, read_entries


def all_entries(runs: Iterable[Run]) -> list[Entry]:
    """The records of runs and of their adaptations.

    A folder tta_none repeats what its run has already; it is left out where it says the same.

    Raises:
        InputError: for a record that is none, of another run, of an unfinished one, or of an older model.
    """

    def result(e: Entry) -> tuple[str, str, str, float]:
        return e.record.split, e.record.checkpoint, canonical(e.settings), e.record.acc

    found: list[Entry] = []
    for run in runs:
        own = read_entries(run)
        known = {result(e) for e in own}
        adapted = read_adapted(run)
        if own or adapted:
            refuse_unfinished(run, own)
        refuse_older(run, own, adapted)
        found += [*own, *(e for e in adapted if result(e) not in known)]
    return found


def unfinished(config: Mapping[str, Any], records: Sequence[Record]) -> bool:
    """Whether a run is not whole: its config.json says so, or an older one's records tell.

    Args:
        config: the content of config.json.
        records: in the run's own folder.
    """
    if "finished" in config and config["values"].get("loop", OWN_LOOP) == OWN_LOOP:
        return not config["finished"]
    return broken_off(config["values"], records)


def refuse_unfinished(run: Run, own: Iterable[Entry]) -> None:
    """Raise for records of a run that is not finished.

    Raises:
        InputError: with how many epochs it was to have.
    """
    if unfinished(run.config, [e.record for e in own]):
        raise InputError(
            f"{run.path} is not finished: its last epoch is not done, or was not evaluated; finish it with "
            "--resume, or take it out of the folder"
        )


def epoch_now(record: Record, own: Sequence[Record], picked: Mapping[str, int]) -> int | None:
    """The epoch that the model of a record has now; None where nothing tells.

    Args:
        record: of a prediction.
        own: the records in the run's own folder, the latest last.
        picked: of the run's config.json: adaptation -> the epoch that it picked.
    """
    if record.checkpoint == "best" and record.picked_by in picked:
        return picked[record.picked_by]
    of_model = [r.epoch for r in own if (r.split, r.checkpoint) == (record.split, record.checkpoint)]
    return of_model[-1] if of_model else None


def refuse_older(run: Run, own: Iterable[Entry], adapted: Iterable[Entry]) -> None:
    """Raise for adaptations of a model that the run has replaced since.

    Raises:
        InputError: with the folder and both epochs.
    """
    records = [e.record for e in own]
    for entry in adapted:
        r = entry.record
        epoch = epoch_now(r, records, run.picked)
        if epoch not in (None, r.epoch):
            raise InputError(
                f"{entry.folder} has predictions of {r.split} by the {r.checkpoint} model of epoch "
                f"{r.epoch}, and the run's is of epoch {epoch} now; remove {r.predictions} there and predict "
                "again"
            )
