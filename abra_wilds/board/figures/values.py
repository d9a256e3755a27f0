"""Values of figures of saved models, which abra_wilds.analysis leaves in the folder `analysis` of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from abra_wilds.errors import InputError
from abra_wilds.results.files import sha256
from abra_wilds.results.names import found, model_name
from abra_wilds.results.runs import Run, differing

# What the values of a figure are called there.
SHIFT = "shift"  # a figure that the paper does not have
Number = int | str  # of a figure of the paper, or SHIFT
COMPUTED: Mapping[Number, str] = {
    **{7: "batch_size", 8: "bn_shift", 9: "points_running", 10: "points_bio-batch"},
    SHIFT: "label_shift",
}
ABLATIONS: Mapping[Number, tuple[str, str, str]] = {
    5: ("abra_at", "Where ABRA shifts representations", "insertion points"),
    6: ("abra_terms", "Terms of ABRA's loss", "terms"),
}
FIGURES = tuple(n for n in (*ABLATIONS, *COMPUTED) if n != SHIFT)  # of the paper
# What models in one figure must share.
SHARED = ("dataset", "simulated", "group", "split")

FigureRows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Values:
    """What was computed from one model.

    Attributes:
        run: that trained the model.
        rows: with a column `settings`: what tells the run from others of its method, such as "lr 0.1"; empty
            where all of them have the same settings.
    """

    run: Run
    rows: FigureRows

    @property
    def name(self) -> str:
        """The model in file names; a digest says more than flags would have room for."""
        first = self.rows[0]
        digest = f"_{first['config_sha256'][:8]}" if first["settings"] else ""
        return f"{first['method']}_seed{first['seed']}_{first['checkpoint']}{digest}"


def values_of(runs: Sequence[Run], number: Number) -> list[Values]:
    """The values of a figure, one entry a model.

    Raises:
        InputError: if there are none, if they are damaged or outdated, or a model occurs twice.
    """
    found = [
        Values(run, read_values(run, path))
        for run in runs
        for path in sorted(run.path.glob(f"analysis/{COMPUTED[number]}_*.jsonl"))
    ]
    if not found:
        raise InputError("it is computed from a saved model; give --checkpoint FILE")
    refuse_model_twice(found)
    return told_apart(found)


def read_values(run: Run, path: Path) -> list[dict[str, Any]]:
    """The rows of a file in the folder `analysis` of a run.

    Raises:
        InputError: if it is damaged, or of another model or other settings than the run's.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        first = rows[0]
        name = model_name(first["dataset"], first["seed"], first["checkpoint"])
        digests = first["checkpoint_sha256"], first["config_sha256"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise InputError(f"{path} is damaged; remove it and give --checkpoint to compute it again") from None
    model = found(run.path / name)
    now = sha256(model) if model.is_file() else digests[0], run.config["digest"]
    if digests != now:
        raise InputError(
            f"{path} was computed from an earlier {name}; give --checkpoint {model} to do it again"
        )
    return rows


def refuse_model_twice(found: Sequence[Values]) -> None:
    """Raise if a model of the same method, settings, seed, epoch and fold occurs twice.

    Raises:
        InputError: with both folders.
    """
    seen: dict[tuple[str, str, str | None], Values] = {}
    for values in found:
        row = values.rows[0]
        key = row["config_sha256"], row["checkpoint"], row.get("data_sha256")
        first = seen.setdefault(key, values)
        if first is not values:
            raise InputError(
                f"seed {row['seed']} of {row['method']} occurs twice, in {first.run.path} and "
                f"{values.run.path}; keep one"
            )


def told_apart(found: Sequence[Values]) -> list[Values]:
    """The same with the column `settings`: flags in which models of one method differ."""
    named = []
    for values in found:
        own = values.run.settings
        others = [v.run.settings for v in found if v.rows[0]["method"] == values.rows[0]["method"]]
        settings = ", ".join(f"{name} {own.get(name)}" for name in sorted(differing(others)))
        named.append(replace(values, rows=[{**row, "settings": settings} for row in values.rows]))
    return named


def refuse_unlike_models(rows: FigureRows) -> None:
    """Raise unless all models of a figure saw the same kind of data.

    Raises:
        InputError: with what differs.
    """
    for name in SHARED:
        values = sorted({str(row[name]) for row in rows})
        if len(values) > 1:
            raise InputError(
                f"its models differ in {name} ({', '.join(values)}); give a folder in which they agree, or "
                "compute them again by --checkpoint"
            )
