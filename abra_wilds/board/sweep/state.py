"""How much of a run and its adaptations is done, and a lock that lasts as long as somebody works on it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from abra_wilds.board.sweep.plan import Adaptation, Planned
from abra_wilds.config.schema import jsonable
from abra_wilds.engine.artifacts.folder import LOCK
from abra_wilds.errors import InputError
from abra_wilds.results.finished import epoch_now, unfinished
from abra_wilds.results.lock import hold
from abra_wilds.results.names import all_found, found, predictions_name
from abra_wilds.results.records import CONFIG, RESULTS, Record, read_records
from abra_wilds.results.runs import Run, read_run

FINISHED, NEW, RESUMES, BROKEN = "finished", "new", "broken off, goes on", "broken off, starts again"


class RunState:
    """How far a run is, by what its folder holds now; config.json and records of it are read once.

    Args:
        run: that a sweep plans.

    Attributes:
        own: the run's folder, its config empty where there is none.
        records: of the run itself.
        stage: FINISHED, NEW, RESUMES or BROKEN, adaptations aside.

    Raises:
        InputError: if its config.json is not a run's, or that of a run with other settings.
    """

    def __init__(self, run: Planned) -> None:
        self.run, folder = run, run.folder
        self.own = read_run(folder) if (folder / CONFIG).exists() else Run(folder, {})
        if self.own.config:
            refuse_other(run, self.own)
        self.records = of_digest(self.own.records, run.config.digest())
        if not folder.exists() or not any(folder.iterdir()):
            self.stage = NEW
        elif not self.lacking():
            self.stage = FINISHED
        else:
            self.stage = RESUMES if run.model_of("last").exists() else BROKEN

    @property
    def trained(self) -> bool:
        """Whether its training has come to its end, whatever is missing since."""
        return bool(self.own.config) and not unfinished(self.own.config, self.records)

    @property
    def splits(self) -> list[str]:
        """The splits that it has to predict: its data set's, but no id_test where all is one site.

        The logs say whether there is one: every split of the run has its log since the first epoch.
        """
        run = self.run
        logged = [split for split in run.splits if (run.folder / f"{split}_eval.csv").exists()]
        everything = bool(self.own.config) and self.own.values["evaluate_all_splits"]
        one_site = everything and "test" in logged and "id_test" not in logged
        return [split for split in run.splits if not (one_site and split == "id_test")]

    def lacking(self) -> list[str]:
        """What is missing for the run to be finished, in words."""
        if not self.own.config:
            return [CONFIG]
        to_come = [] if self.trained else ["the end of its training"]
        return to_come + self._lacking(self.run.folder, self.records)

    def lacking_of(self, adaptation: Adaptation) -> list[str]:
        """What is missing for an adaptation to be finished, in words; one of an older model is missing whole.

        Its folder is read at every call, the run's is not.

        Raises:
            InputError: if its folder holds one with other settings.
        """
        folder = adaptation_folder(self.run, adaptation)
        everything = read_records(folder / RESULTS)
        there = of_digest(everything, adaptation.digest)
        label = self.model_for(adaptation)
        picks = (
            (label.removeprefix("best_"),) if label.startswith("best_") else ("", self.run.config.eval.name)
        )
        current = [
            r
            for r in there
            if r.picked_by in picks and epoch_now(r, self.records, self.own.picked) in (None, r.epoch)
        ]
        missing = self._lacking(folder, current)
        if missing and len(there) < len(everything):
            raise InputError(f"{folder} holds predictions with other settings; rename that folder")
        return missing

    def _lacking(self, folder: Path, records: Sequence[Record]) -> list[str]:
        """Splits without a record, and predictions without a file."""
        there = {r.split: r for r in records if r.checkpoint == self.run.checkpoint}
        missing = [f"the record of {split}" for split in self.splits if split not in there]
        return missing + [r.predictions for r in there.values() if not found(folder / r.predictions).exists()]

    def model_for(self, adaptation: Adaptation) -> str:
        """Label of the checkpoint that an adaptation predicts with.

        It is the one of the epoch that the adaptation picked, unless the run was finished before the sweep
        had this adaptation: then that of the run's own epoch, and tables say so.
        """
        if self.run.model_of(adaptation.model).exists() or not self.trained:
            return adaptation.model
        return self.run.checkpoint

    @cached_property
    def to_adapt(self) -> list[Adaptation]:
        """The adaptations that are yet to be made, wholly or in part.

        Raises:
            InputError: if a folder holds one with other settings.
        """
        return [a for a in self.run.adaptations if self.lacking_of(a)]


def refuse_other(run: Planned, there: Run) -> None:
    """Raise if a folder holds a run with other settings; nothing of it is touched.

    Raises:
        InputError: naming what differs.
    """
    if there.config["digest"] == run.config.digest():
        return
    now, then = jsonable(run.config.values(local=False)), there.values
    differing = [f"{n} (was {then.get(n)}, is {now[n]})" for n in now if then.get(n) != now[n]]
    named = ", ".join(differing[:5]) or "values that are no longer there"
    raise InputError(
        f"{run.folder} holds a run with other settings: {named}; give another --out, or rename that folder"
    )


def of_digest(records: Iterable[Record], digest: str) -> list[Record]:
    """The records that name a configuration."""
    return [r for r in records if r.config_sha256 == digest]


def adaptation_folder(run: Planned, adaptation: Adaptation) -> Path:
    """Where `abra-wilds predict` puts an adaptation."""
    return run.folder / f"tta_{adaptation.name}"


def clear(run: Planned, adaptation: Adaptation) -> None:
    """Remove the predictions that `abra-wilds predict` would refuse to overwrite; other checkpoints' stay."""
    data, t = run.config.data, run.config.train
    names = predictions_name(data.dataset, "*", t.seed, run.checkpoint, f"_tta:{adaptation.name}")
    for path in all_found(adaptation_folder(run, adaptation), names):
        path.unlink()


@contextmanager
def locked(run: Planned, patience: float = 0) -> Iterator[bool]:
    """Hold a run's lock while the block runs, unless another sweep does, or processes of one that was killed.

    Args:
        run: whose lock.
        patience: seconds to wait for it.

    Yields:
        Whether the run is ours.

    Raises:
        InputError: if the file system has no locks.
    """
    lock_of(run).parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + patience
    with hold(lock_of(run), patience) as ours:
        while ours and worked_on(run):
            ours = time.monotonic() < end
            time.sleep(0.1 if ours else 0)
        yield ours


def worked_on(run: Planned) -> bool:
    """Whether a process trains the run or predicts with it: it holds the lock of the folder it writes to."""
    for folder in (run.folder, *(adaptation_folder(run, a) for a in run.adaptations)):
        if (folder / LOCK).exists():
            with hold(folder / LOCK) as free:
                if not free:
                    return True
    return False


def lock_of(run: Planned) -> Path:
    """The lock's file, which stays; what it says is for people."""
    return run.folder.with_name(f".{run.folder.name}.lock")
