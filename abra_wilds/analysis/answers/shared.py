"""A folder of answers that several processes fill, a file for each unit of a screen below each table.

Files are renamed when they are whole, and a unit is finished when the last of its files is there: a process
may be killed at any moment, and the same command goes on. A lock a unit keeps two processes from one unit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from abra_wilds.analysis.answers.units import Unit
from abra_wilds.config.schema import jsonable
from abra_wilds.errors import InputError
from abra_wilds.results.files import make_out, write_text
from abra_wilds.results.lock import FOREVER, hold
from abra_wilds.results.records import CONFIG

LOCKS = ".locks"
# Of config.json, what the same answers may differ in.
LOOSE = ("commit", "versions", "scores")
Writers = Mapping[str, Callable[[Path], None]]


class SharedFolder:
    """A folder of answers by unit.

    Args:
        out: the folder.
        about: what its config.json says.
        tables: folders of tables below it; the file of the last finishes a unit.
        units: of the screen.
    """

    def __init__(self, out: Path, about: Mapping[str, Any], tables: Sequence[str], units: Sequence[Unit]):
        self.out, self.tables, self.units = out, tuple(tables), list(units)
        self.about = json.loads(json.dumps(jsonable(about)))

    def begin(self, first: Callable[[], object]) -> None:
        """Say what the folder is of; one that is there is gone on with.

        Args:
            first: called where the folder is new, before it is made.

        Raises:
            InputError: if it holds something else.
        """
        config = self.out / CONFIG
        if not config.exists():
            first()
        elif self.is_ours():
            return
        make_out(self.out)
        make_out(self.out / LOCKS)
        with hold(self.out / LOCKS / "folder", FOREVER):
            if not self.is_ours():
                for table in self.tables:
                    make_out(self.out / table)
                self.write_about({})

    def is_ours(self) -> bool:
        """Whether the folder has a config.json, which is of the same answers.

        Raises:
            InputError: if it is of others.
        """
        if not (self.out / CONFIG).exists():
            return False
        then, now = flat(self.read_about()), flat(self.about)
        differing = [
            f"{name} (was {short(then.get(name))}, is {short(now.get(name))})"
            for name in dict.fromkeys((*now, *then))
            if then.get(name) != now.get(name)
        ]
        if differing:
            raise InputError(
                f"{self.out} holds answers of another kind: {', '.join(differing[:4])}; give "
                "another --out, or remove that folder"
            )
        return True

    def read_about(self) -> dict[str, Any]:
        """The content of config.json.

        Raises:
            InputError: if it is none of ours.
        """
        try:
            return dict(json.loads((self.out / CONFIG).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise InputError(f"{self.out / CONFIG} cannot be read; give another --out") from None

    def write_about(self, more: Mapping[str, Any]) -> None:
        """Write config.json."""
        write_text(self.out / CONFIG, json.dumps({**self.about, **more}, indent=2) + "\n")

    def file_of(self, table: str, unit: Unit) -> Path:
        """Where a unit's part of a table goes."""
        return self.out / table / f"{unit.name}.parquet"

    def left(self) -> list[Unit]:
        """The units that are not finished."""
        there = {path.name for path in (self.out / self.tables[-1]).glob("*.parquet")}
        return [unit for unit in self.units if f"{unit.name}.parquet" not in there]

    def fill(self, order: Sequence[Unit], make: Callable[[Unit], Writers], off: bool | None) -> None:
        """Finish every unit that no other process is at, with a bar over all units, whoever finishes them.

        Args:
            order: all units, in the order to try.
            make: name of each table -> what writes the unit's part of it.
            off: `disable` of the bar.
        """
        left = self.left()
        with tqdm(
            total=len(self.units), initial=len(self.units) - len(left), unit="part", disable=off
        ) as bar:
            before = None
            while left and before != left:  # again for units of processes that were killed meanwhile
                before, wanted = left, {unit.name for unit in left}
                for unit in order:
                    if unit.name in wanted and self.finish(unit, make):
                        bar.update(len(self.units) - len(self.left()) - bar.n)
                left = self.left()

    def finish(self, unit: Unit, make: Callable[[Unit], Writers]) -> bool:
        """Make a unit's files unless they are there or another process is at them; returns whether it did."""
        last = self.file_of(self.tables[-1], unit)
        with hold(self.out / LOCKS / unit.name) as ours:
            if not ours or last.exists():
                return False
            for table in self.tables:  # of a process that was killed
                for path in (self.out / table).glob(f".{unit.name}.parquet.*.tmp"):
                    path.unlink(missing_ok=True)
            writers = make(unit)
            for table in self.tables:
                if table in writers:
                    writers[table](self.file_of(table, unit))
        return True

    def conclude(self, work: Callable[[], Mapping[str, Any]]) -> bool:
        """Do what can be done only when all units are finished, once; returns whether they are.

        Args:
            work: returns the scores for config.json.
        """
        if self.left():
            return False
        with hold(self.out / LOCKS / "folder", FOREVER):
            for path in self.out.glob(".*.tmp"):  # of a process that was killed
                path.unlink(missing_ok=True)
            if "scores" not in self.read_about():
                self.write_about({"scores": work()})
        return True


def flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says, by dotted names, without what may differ."""
    found: dict[str, Any] = {}
    for name, value in about.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"{name}.{key}" if key else name: inner for key, inner in parts if name not in LOOSE}
    return found


def short(value: Any) -> str:
    """A value for a message; digests by their beginning."""
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
