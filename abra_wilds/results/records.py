"""Records of results, one JSON line each in results.jsonl; tables read nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

from abra_wilds.errors import InputError
from abra_wilds.results.files import write_text

RESULTS = "results.jsonl"
BALANCED = "acc_balanced"
CONFIG = "config.json"  # what the records beside it were computed with
MODEL = "model"  # folder of a run, with its model as one that needs no data
WEIGHTS = "weights_sha256"  # which config.json of such a folder has
FIELD_TYPES: dict[str, type | tuple[type, ...]] = {
    **{"str": str, "str | None": (str, NoneType), "bool": bool},
    **{"int": int, "float": (int, float), "float | None": (int, float, NoneType)},
    **{"Mapping[str, str]": dict, "Mapping[str, float]": dict, "Mapping[str, Any]": dict},
}


@dataclass(frozen=True)
class Record:
    """One split, predicted by one checkpoint.

    Attributes:
        method: name in the table of methods.
        dataset: name of the data set.
        simulated: whether its images were made by the simulator.
        backbone: name of the backbone.
        split: such as "test".
        seed: of the run.
        checkpoint: "best", "last" or the epoch asked for.
        epoch: the epoch the checkpoint was saved after, counted from 0.
        tta: test-time adaptation, or None.
        bn_stats: "running" or "precise" batch-norm statistics at evaluation.
        bio_batch: what one bio-batch was in training: "plate", "experiment" or the fields that define it.
        train_loader: how training batches were drawn.
        preset: "paper", "paper_text" or "wilds".
        acc: fraction of images that are right.
        acc_by_cell: the same for each cell type.
        acc_screen: of six channels, the same among treatments alone and by well (see scores.py).
        n: number of images.
        predictions: name of the predictions file, beside this one (`names.found` where it was renamed since).
        predictions_sha256: its checksum.
        config_sha256: digest of the configuration.
        commit: of the source, with "+changes" where it was modified, or "unknown".
        versions: of what computed it.
        wall_s: seconds spent training, evaluations included.
        consumed: what it cost and what entered it (see engine/consumed.py); empty in older records.
        acc_balanced: mean over the split's classes of the fraction of their images that is right; None in
            older records.
        class_mix: what a bio-batch is -> how far the class mix of the split's bio-batches varies
            (`functional.effects.mix_spread`), 0 where all hold the classes alike; empty in older records.
        picked_by: the adaptation whose accuracy on val picked the best epoch, "none" for no adaptation; empty
            for other checkpoints and in older records.
        data_sha256: digest of the data set's labels and metadata (`wilds_data.data_digest`); empty in older
            records.
    """

    method: str
    dataset: str
    simulated: bool
    backbone: str
    split: str
    seed: int
    checkpoint: str
    epoch: int
    tta: str | None
    bn_stats: str
    bio_batch: str
    train_loader: str
    preset: str
    acc: float
    acc_by_cell: Mapping[str, float]
    n: int
    predictions: str
    predictions_sha256: str
    config_sha256: str
    commit: str
    versions: Mapping[str, str]
    wall_s: float
    consumed: Mapping[str, Any] = field(default_factory=dict)
    acc_screen: Mapping[str, float] = field(default_factory=dict)
    data_sha256: str = ""
    picked_by: str = ""
    acc_balanced: float | None = None
    class_mix: Mapping[str, float] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, float]:
        """Accuracies beside `acc` by name: those of cell types and of a screen, and acc_balanced."""
        balanced = {} if self.acc_balanced is None else {BALANCED: self.acc_balanced}
        return {**self.acc_by_cell, **self.acc_screen, **balanced}

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for what no reader could use."""
        for f in fields(self):
            if not isinstance(getattr(self, f.name), FIELD_TYPES[str(f.type)]):
                raise TypeError(f"{f.name} must be {f.type}; got {getattr(self, f.name)!r}")
        if {"/", "\\"} & set(self.predictions):
            raise ValueError(f"predictions must be the name of a file beside it; got {self.predictions!r}")
        for share in (self.acc, *self.scores.values(), *self.class_mix.values()):
            if not 0 <= share <= 1:
                raise ValueError(f"accuracies and class mixes must lie in [0, 1]; got {share!r}")

    def same_result(self, other: Record) -> bool:
        """Whether the other says the same of the same predictions, whatever the clock said."""

        def timeless(record: Record) -> dict[str, Any]:
            return asdict(record) | {"wall_s": 0, "consumed": {**record.consumed, "seconds": 0}}

        return timeless(self) == timeless(other)


def read_records(path: Path) -> list[Record]:
    """All records of a results.jsonl; none where the file does not exist.

    Raises:
        InputError: for a line that is no record.
    """
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            records.append(Record(**json.loads(line)))
        except (ValueError, TypeError, RecursionError):
            names = ", ".join(f.name for f in fields(Record))
            raise InputError(f"line {number} of {path} is no record with {names}; restore the file") from None
    return records


def read_rows(path: Path, keys: Iterable[str], what: str) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, such as records of a study; none where the file does not exist.

    Args:
        path: of the file.
        keys: that every row has.
        what: the rows are, for the message.

    Raises:
        InputError: if the file holds something else.
    """
    if not path.exists():
        return []
    rows, wanted = [], set(keys)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
            known = wanted <= rows[-1].keys()
        except (ValueError, AttributeError):
            known = False
        if not known:
            raise InputError(f"line {number} of {path} is no row of {what}; restore it, or name another file")
    return rows


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Append the records that the file does not hold yet; it is written again, so that it is always whole."""
    known = read_records(path)
    new = [r for r in records if not any(r.same_result(k) for k in known)]
    write_text(path, "".join(json.dumps(asdict(r)) + "\n" for r in [*known, *new]))


def counted(n: int, thing: str, ending: str = "s") -> str:
    """A number of things, with the plural's ending for any but one.

    >>> counted(1, "run"), counted(3000, "seed")
    ('1 run', '3,000 seeds')
    """
    return f"{n:,} {thing}{'' if n == 1 else ending}"


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of as many cells each, in columns, without an end of line after the last.

    Args:
        rows: the head among them.
        left: so many columns begin at the left; the others, numbers, end at the right.

    >>> print(aligned([["split", "n"], ["val", "9,854"]]))
    split      n
    val    9,854
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(v.ljust(w) if i < left else v.rjust(w) for i, (v, w) in enumerate(cells)).rstrip()

    return "\n".join(map(line, rows))


def class_mix_line(records: Iterable[Record]) -> str:
    """How far the class mix of each split's bio-batches varies, in a line; empty where no record says it."""
    spread_of = {
        r.split: ", ".join(f"{spread:.2f} over {name}s" for name, spread in r.class_mix.items())
        for r in records
        if r.class_mix
    }
    if not spread_of:
        return ""
    splits = "; ".join(f"{split} {spreads}" for split, spreads in spread_of.items())
    return f"Class mix (0: bio-batches hold the classes alike, 1: one class each): {splits}"


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Cells as a table in Markdown, their head first."""
    head, *body = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([head, f"{'|---' * len(cells[0])}|", *body])


def results_table(records: Sequence[Record]) -> str:
    """Split x (average, balanced, cell types, scores of a screen) in percent, as text, and class mixes.

    It says if data is simulated.
    """
    if not records:
        return "no predictions were written, so there is no record to show\n"
    balanced = [BALANCED] if any(r.acc_balanced is not None for r in records) else []
    cells = sorted({c for r in records for c in r.acc_by_cell})
    scores = [*balanced, *cells, *sorted({s for r in records for s in r.acc_screen})]
    rows = [["", "checkpoint", "split", "n", "average", *(s.removeprefix("acc_") for s in scores)]]
    for r in records:
        more = [f"{100 * r.scores[s]:.1f}" if s in r.scores else "-" for s in scores]
        rows.append([r.method, r.checkpoint, r.split, f"{r.n:,}", f"{100 * r.acc:.1f}", *more])
    data = "simulated data" if records[0].simulated else records[0].dataset
    lines = [f"Accuracy in percent on {data}", aligned(rows, left=3), class_mix_line(records)]
    return "\n".join(filter(None, lines)) + "\n"
