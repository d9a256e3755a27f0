"""A sweep's YAML file, read and checked; what its settings mean is left to `sweep_plan`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from abra_wilds.board.terms import NAMED
from abra_wilds.config.files import read_settings
from abra_wilds.config.run import PREDICTION_FLAGS
from abra_wilds.errors import InputError
from abra_wilds.results.files import named_yaml

SPECS = Path(__file__).parents[1] / "specs"
SPEC_KEYS = (
    *("name", "seeds", "simulate", "folds", "checkpoint", "settings"),
    *("gpus_per_run", "reference", "differs", "rows"),
)
CHECKPOINTS = ("best", "last")  # best: by val where there is one, else last too
ROW_KEYS = ("label", "algorithm", "config", "settings", "tta", "differs")
SPEC_TEXTS = ("name", "label", "reference", "same_as", "algorithm", "config")
# Flags whose values the sweep decides.
DECIDED_BY_SWEEP = ("algorithm", "config", "seed", "log_dir", "root_dir", "device", "resume", "overwrite")


@dataclass(frozen=True)
class SweepRow:
    """A row of a table: one configuration, over seeds.

    Attributes:
        label: its name.
        words: of the command line, but for seed and places.
        tta: flags of `abra-wilds predict` for each adaptation of its models.
        differs: terms (terms.py) in which the row differs from the reference on purpose -> why.
    """

    label: str
    words: tuple[str, ...]
    tta: tuple[Mapping[str, Any], ...]
    differs: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^\w.+-]+", "_", self.label).strip("_")


@dataclass(frozen=True)
class Spec:
    """A sweep's file.

    Attributes:
        name: of the sweep.
        seeds: of every row.
        rows: in the file's order.
        gpus_per_run: processes of each run, one a device.
        reference: label of the row that the others are compared with.
        folds: words of the command line of each part of the data that every row is run on; one of no words
            without such parts.
        simulate: the screen that it runs on, as `abra_wilds.simulate.preset` takes it; None for data that are
            there.
        checkpoint: one of CHECKPOINTS, whose predictions count.
    """

    name: str
    seeds: tuple[int, ...]
    rows: tuple[SweepRow, ...]
    gpus_per_run: int
    reference: str
    folds: tuple[tuple[str, ...], ...] = ((),)
    simulate: Mapping[str, Any] | None = None
    checkpoint: str = "best"

    @property
    def fold_names(self) -> list[str]:
        """Of each fold the folder below the row's, "" where there is one alone."""
        n = len(self.folds)
        return [""] if n == 1 else [f"fold{k}" for k in range(1, n + 1)]


def spec_path(name: str | Path) -> Path:
    """The file of a sweep: a path, or one of the package's without its ending.

    >>> spec_path("table_3").name
    'table_3.yaml'
    """
    return named_yaml(name, SPECS)


def read_spec(path: Path) -> Spec:
    """A sweep's file.

    Raises:
        InputError: for whatever in it cannot be used.
    """
    content = read_content(path)
    only_keys(content, SPEC_KEYS, str(path))
    seeds, rows, k = content.get("seeds"), content.get("rows"), content.get("gpus_per_run", 1)
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and s >= 0 for s in seeds):
        raise InputError(f"seeds of {path} must be a list of whole numbers, such as [0, 1, 2]; got {seeds!r}")
    if type(k) is not int or k < 1:
        raise InputError(f"gpus_per_run of {path} must be a whole number of 1 or more; got {k!r}")
    if not isinstance(rows, list) or not rows:
        raise InputError(f"rows of {path} must be a list of rows with a label each; got {rows!r}")
    shared = as_mapping(content.get("settings"), f"settings of {path}")
    read = tuple(read_row(row, shared, path) for row in rows)
    refuse_repeated((row.folder for row in read), f"rows of {path} share a folder, by their labels")
    refuse_repeated(seeds, f"seeds of {path} are there twice")
    reference = str(content.get("reference", read[0].label))
    if reference not in [row.label for row in read]:
        raise InputError(f"reference of {path} is {reference!r}, which is no label of its rows; name one")
    all_differ = as_differences(content.get("differs"), f"differs of {path}")
    read = tuple(replace(row, differs={**all_differ, **row.differs}) for row in read)
    folds = read_folds(content, path)
    name, checkpoint = str(content.get("name", path.stem)), content.get("checkpoint", "best")
    if checkpoint not in CHECKPOINTS:
        raise InputError(f"checkpoint of {path} must be {' or '.join(CHECKPOINTS)}; got {checkpoint!r}")
    return Spec(name, tuple(seeds), read, k, reference, folds, as_screen(content, path), checkpoint)


def read_content(path: Path) -> dict[str, Any]:
    """The keys of a sweep's file.

    With `same_as: FILE` it has those of another file beside it too, but for its own keys and settings, and
    but for the rows whose labels are in `without`.

    Raises:
        InputError: if it is no file of settings, or names one that is like another itself.
    """
    content = read_settings(path, "SPEC", SPEC_TEXTS)
    if "same_as" not in content:
        return content
    other, without = path.parent / str(content.pop("same_as")), content.pop("without", None) or ()
    beside = read_settings(other, "SPEC", SPEC_TEXTS)
    if "same_as" in beside:
        raise InputError(
            f"same_as of {path} names {other.name}, which has same_as itself; name what that names"
        )
    rows = [row for row in beside.get("rows") or () if dict(row).get("label") not in without]
    settings = [as_mapping(of.get("settings"), f"settings of {path}") for of in (beside, content)]
    return {**beside, "rows": rows, **content, "settings": {**settings[0], **settings[1]}}


def read_folds(content: Mapping[str, Any], path: Path) -> tuple[tuple[str, ...], ...]:
    """The words of each part of the data.

    Raises:
        InputError: unless they are a list of settings.
    """
    folds = content.get("folds", [{}])
    if not isinstance(folds, list) or not folds:
        raise InputError(
            f"folds of {path} must be a list of settings such as [{{split: [fold=1/2]}}]; got {folds!r}"
        )
    where = f"a fold of {path}"
    return tuple(tuple(as_words(as_mapping(fold, where), where)) for fold in folds)


def as_screen(content: Mapping[str, Any], path: Path) -> Mapping[str, Any] | None:
    """What a sweep simulates, or None."""
    found = as_mapping(content.get("simulate"), f"simulate of {path}")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()} or None


def read_row(row: Any, shared: Mapping[str, Any], path: Path) -> SweepRow:
    """A row, with the settings that all share.

    Raises:
        InputError: for whatever in it cannot be used.
    """
    row = as_mapping(row, f"a row of {path}")
    label = str(row.get("label", ""))
    where = f"row {label!r} of {path}"
    only_keys(row, ROW_KEYS, where)
    settings = {**shared, **as_mapping(row.get("settings"), f"settings of {where}")}
    for name in DECIDED_BY_SWEEP:
        if name in settings:
            raise InputError(f"settings of {where} hold {name}, which the sweep decides; leave it out")
    words = [] if "algorithm" not in row else ["--algorithm", str(row["algorithm"])]
    words += [] if "config" not in row else ["--config", str(row["config"])]
    if not words or not re.search(r"\w", label):
        raise InputError(f"{where} needs a label, and algorithm or config; add what is missing")
    tta = row.get("tta", [])
    if not isinstance(tta, list):
        raise InputError(f"tta of {where} must be a list such as [{{tta: plate_bn}}]; got {tta!r}")
    for flags in tta:
        only_keys(
            as_mapping(flags, f"tta of {where}"),
            sorted(set(PREDICTION_FLAGS) - set(DECIDED_BY_SWEEP)),
            f"tta of {where}",
        )
    differs = as_differences(row.get("differs"), f"differs of {where}")
    return SweepRow(label, (*words, *as_words(settings, where)), tuple(tta), differs)


def as_mapping(value: Any, what: str) -> Mapping[str, Any]:
    """The value, an empty mapping for nothing.

    Raises:
        InputError: if it is something else.
    """
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{what} must be names and values, one `name: value` a line; got {value!r}")
    return {str(name): entry for name, entry in (value or {}).items()}


def as_differences(value: Any, what: str) -> Mapping[str, Any]:
    """Terms in which rows may differ on purpose, with the reason for each.

    Raises:
        InputError: for anything else; what a test needs to be equal is no such term.
    """
    found = as_mapping(value, what)
    only_keys(found, NAMED, what)
    return found


def only_keys(content: Mapping[str, Any], allowed: Iterable[str], what: str) -> None:
    """Raise for a name that nothing reads.

    Raises:
        InputError: with what may stand there.
    """
    allowed = list(allowed)
    for name in content:
        if name not in allowed:
            raise InputError(f"{what} has {name!r}; it may have {', '.join(allowed)}")


def refuse_repeated(values: Iterable[Any], what: str) -> None:
    """Raise if a value occurs twice.

    Raises:
        InputError: naming it.
    """
    seen = set()
    for value in values:
        if value in seen:
            raise InputError(f"{what}: {value}; change one")
        seen.add(value)


def as_words(settings: Mapping[str, Any], where: str) -> list[str]:
    """Settings as a command line.

    Raises:
        InputError: for one without a value.

    >>> as_words({"n_epochs": 3, "pretrained": False, "loader_kwargs": {"num_workers": 0}}, "")
    ['--n_epochs', '3', '--pretrained', 'false', '--loader_kwargs', 'num_workers=0']
    """

    def word(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    words: list[str] = []
    for name, value in settings.items():
        if value is None:
            raise InputError(f"{name} of {where} has no value; give one, or leave it out")
        pairs = [f"{k}={word(v)}" for k, v in value.items()] if isinstance(value, Mapping) else None
        many = list(value) if isinstance(value, list) else [value]
        words += [f"--{name}", *(map(word, many) if pairs is None else pairs)]
    return words
