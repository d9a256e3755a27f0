"""Folders of runs, read without torch: which there are, what each was, and which differ in the seed alone.

A record says little of the settings it was computed with, but it holds their digest. Settings are those of
the run's config.json, with the adaptation that the record names, for which the digest comes out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from abra_wilds.config.run import COMMON
from abra_wilds.config.schema import canonical, digest_of
from abra_wilds.errors import InputError
from abra_wilds.results.legacy import candidates
from abra_wilds.results.names import found
from abra_wilds.results.records import CONFIG, RESULTS, WEIGHTS, Record, read_records

# As pages and figures call them.
SPLIT_NAMES = {"test": "OOD test", "val": "OOD validation", "id_test": "ID test", "train": "train"}


@dataclass(frozen=True)
class Run:
    """A run folder, of which every file is read once, and only when it is asked for.

    Attributes:
        path: the folder.
        config: the content of its config.json.
    """

    path: Path
    config: Mapping[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        """Flag name -> value, of all flags."""
        return dict(self.config["values"])

    @property
    def seed(self) -> int:
        """The seed, from the configuration and not from a file name."""
        return int(self.config["values"]["seed"])

    @property
    def settings(self) -> dict[str, Any]:
        """The values that can change a number, but the seed."""
        return without_seed(self.values)

    @property
    def picks(self) -> list[str]:
        """Names of the adaptations that picked an epoch of their own, whose models are epoch:best_NAME."""
        return [e.name for e in COMMON.section("eval", self.values).alternatives()]

    @property
    def picked(self) -> Mapping[str, int]:
        """Adaptation of --also_tta -> the epoch that it picked; empty until the run is finished."""
        return dict(self.config.get("picked", {}))

    @cached_property
    def records(self) -> list[Record]:
        """All records in its own folder.

        Raises:
            InputError: for a line that is no record.
        """
        return read_records(self.path / RESULTS)

    @cached_property
    def adapted(self) -> dict[Path, dict[str, Any]]:
        """Folders of predictions by this run's models inside this one -> the content of their config.json.

        They may be called anything. Those of an older version have no config.json, and that they lie here is
        all there is to tell by.
        """
        inside = sorted(path.parent for path in self.path.rglob(RESULTS) if path.parent != self.path)
        kept = {folder: read_json(folder / CONFIG) for folder in inside}
        return {f: c for f, c in kept.items() if not c or c.get("predictions_of") == self.config["digest"]}


@dataclass(frozen=True)
class Entry:
    """A record, and what it was computed with.

    Attributes:
        run: that trained the model.
        folder: where record and predictions lie: the run's, or one of an adaptation.
        record: of one split.
        settings: the values that can change a number, but the seed, adaptation included.
    """

    run: Run
    folder: Path
    record: Record
    settings: Mapping[str, Any]

    @property
    def predictions(self) -> Path:
        """The predictions file."""
        return found(self.folder / self.record.predictions)

    @property
    def epoch(self) -> str:
        """How the epoch of the model was chosen, as tables say it.

        Older records do not name what picked the best epoch; it was the evaluation of the run.
        """
        r = self.record
        if r.checkpoint != "best":
            return f"{r.checkpoint} epoch" if r.checkpoint == "last" else f"epoch {r.checkpoint}"
        own, as_predicted = self.folder == self.run.path, r.tta or "none"
        trained = "none" if self.run.values.get("tta", "none") == "none" else "--tta of the run"
        picked_by = r.picked_by or (as_predicted if own else trained)
        return "own val" if picked_by == as_predicted else f"val by {picked_by}"


def find_runs(folder: Path) -> list[Run]:
    """Every run folder below a folder, itself included, by path.

    Raises:
        InputError: if there is none, or a config.json is not a run's.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give one that holds run folders")
    read = {path.parent: read_json(path) for path in sorted(folder.rglob(CONFIG))}
    others = {"predictions_of", WEIGHTS}  # of folders of predictions and of models
    runs = [checked_run(inside, config) for inside, config in read.items() if not others & set(config)]
    if not runs:
        raise InputError(f"{folder} holds no run, which is a folder with a {CONFIG}; give one that does")
    return runs


def read_json(path: Path) -> dict[str, Any]:
    """The content of a config.json; empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_run(folder: Path) -> Run:
    """A run folder.

    Raises:
        InputError: if its config.json is not a run's, or was changed after the run.
    """
    return checked_run(folder, read_json(folder / CONFIG))


def checked_run(folder: Path, config: Mapping[str, Any]) -> Run:
    """A run folder, its config.json read before.

    Raises:
        InputError: if that is not a run's, or was changed after the run.
    """
    path = folder / CONFIG
    try:
        named = isinstance(config["values"]["algorithm"], str) and isinstance(config["values"]["seed"], int)
        named = named and isinstance(config["command"], list) and isinstance(config["origin"], dict)
        same = digest(config["values"]) == config["digest"]
    except (ValueError, TypeError, KeyError):
        named, same = False, False
    if not named:
        raise InputError(f"{path} is no configuration of a run; restore it, or take it out of the folder")
    if not same:
        raise InputError(f"{path} has other values than its run had, by its digest; restore it")
    return Run(folder, config)


def without_seed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that can change a number, but the seed."""
    return {name: value for name, value in COMMON.that_count(values).items() if name != "seed"}


def digest(values: Mapping[str, Any]) -> str:
    """The digest of a configuration (`RunConfig.digest`), from the values of its config.json."""
    return digest_of(COMMON.that_count(values))


def read_entries(run: Run, folder: Path | None = None) -> list[Entry]:
    """The latest record of every split and checkpoint in a run's own folder, or in one of its adaptations.

    Raises:
        InputError: for a line that is no record, or a record of another run.
    """
    folder = run.path if folder is None else folder
    records = run.records if folder == run.path else read_records(folder / RESULTS)
    latest = {(r.split, r.checkpoint, r.tta): r for r in records}
    return [Entry(run, folder, r, entry_settings(run, folder, r)) for r in latest.values()]


def read_adapted(run: Run) -> list[Entry]:
    """The same of every folder of predictions inside a run's.

    Raises:
        InputError: for a line that is no record, or a record of another run.
    """
    return [entry for folder in run.adapted for entry in read_entries(run, folder)]


def entry_settings(run: Run, folder: Path, record: Record) -> dict[str, Any]:
    """What a record was computed with.

    The folder's config.json says it; of an older version's folder it is searched for.

    Raises:
        InputError: if nothing of the run has the record's digest.
    """
    noted = run.adapted.get(folder, {}).get("settings", {}).get(record.config_sha256)
    known = [run.values] if folder == run.path else [noted] if noted else []
    for values in known or candidates(run.values, record.tta):
        if record.seed == run.seed and digest(values) == record.config_sha256:
            return without_seed(values)
    raise InputError(
        f"{folder / RESULTS} has a record of {record.split} by seed {record.seed} that was not made with the "
        f"settings in {run.path / CONFIG}; predict again with this run's model"
    )


def by_settings(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries that differ in seed and split alone, together, in order of first appearance.

    Those whose epoch was chosen otherwise are not alike.

    Raises:
        InputError: if a group has a seed twice, or images of different data.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        state = {"epoch": entry.epoch, "simulated": entry.record.simulated}
        groups.setdefault(canonical({"settings": dict(entry.settings), **state}), []).append(entry)
    for group in groups.values():
        refuse_seed_twice(group)
        refuse_other_data(group)
        refuse_other_training(group)
    return list(groups.values())


def refuse_seed_twice(group: Sequence[Entry]) -> None:
    """Raise if a split of a seed occurs twice.

    Raises:
        InputError: with both folders.
    """
    seen: dict[tuple[int, str], Entry] = {}
    for entry in group:
        r = entry.record
        first = seen.setdefault((r.seed, r.split), entry)
        if first is not entry:
            raise InputError(
                f"seed {r.seed} of {r.method} occurs twice, in {first.folder} and {entry.folder}; keep one"
            )


def refuse_other_data(group: Sequence[Entry]) -> None:
    """Raise if a split has other images somewhere, by their number or, where it is known, the data's digest.

    Raises:
        InputError: with two folders.
    """
    first: dict[str, Entry] = {}
    for entry in group:
        r, known = entry.record, first.setdefault(entry.record.split, entry)
        if r.n != known.record.n:
            raise InputError(
                f"{r.split} has {known.record.n:,} images in {known.folder} and {r.n:,} in {entry.folder}, "
                "so they are of different data; keep runs of one data set"
            )
    by_digest = {e.record.data_sha256: e.folder for e in group if e.record.data_sha256}
    if len(by_digest) > 1:
        one, other, *_ = by_digest.values()
        raise InputError(
            f"{one} and {other} are of data that differ in labels or metadata, by the digests in their "
            "records; keep runs of one data set"
        )


def refuse_other_training(group: Sequence[Entry]) -> None:
    """Raise if runs of the same settings did not train on the same, as far as they say it.

    A table of --qc counts in settings by its path, and in this digest by its content.

    Raises:
        InputError: with two folders.
    """
    known = {digest: e.run.path for e in group if (digest := e.run.config.get("data_sha256"))}
    if len(known) > 1:
        one, other, *_ = known.values()
        raise InputError(
            f"{one} and {other} have the same settings and trained on data that differ in labels, metadata "
            "or what --qc flags, by the digests in their config.json; keep runs of one data set"
        )


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the values that are not the same in all settings, in order of appearance."""
    names = dict.fromkeys(name for s in settings for name in s)
    return [name for name in names if any(s.get(name) != settings[0].get(name) for s in settings)]


def refuse_mixture(named: Mapping[Path, Mapping[str, Any]]) -> None:
    """Raise unless all settings are the same.

    Args:
        named: folder -> settings.

    Raises:
        InputError: with what differs from the first.
    """
    first, *others = named
    for folder in others:
        a, b = named[first], named[folder]
        names = differing([a, b])
        if names:
            unlike = ", ".join(f"{name} ({a.get(name)} and {b.get(name)})" for name in names[:5])
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise InputError(
                f"{first} and {folder} differ in more than the seed: {unlike}{more}; give a folder of runs "
                "with the same settings"
            )
