"""What is there of a run and its adaptations, and a lock that lasts as long as somebody works on it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from abra_wilds.board.sweep.plan import Adaptation, Planned
from abra_wilds.config.schema import jsonable
from abra_wilds.engine.artifacts.folder import RunFolder
from abra_wilds.errors import InputError
from abra_wilds.results.finished import epoch_now
from abra_wilds.results.finished import unfinished as is_unfinished
from abra_wilds.results.records import CONFIG, RESULTS, Record, read_records
from abra_wilds.results.runs import read_run

FINISHED, NEW, RESUMES, BROKEN = "finished", "new", "broken off, goes on", "broken off, starts anew"


def state_of(run: Planned) -> str:
    """How far a run is, its adaptations aside.

    Raises:
        InputError: if its folder holds a run with other settings.
    """
    if not run.folder.exists() or not any(run.folder.iterdir()):
        return NEW
    refuse_other(run)
    if not lacking(run):
        return FINISHED
    last = run.model.with_name(run.model.name.replace(f"epoch:{run.checkpoint}_", "epoch:last_"))
    return RESUMES if last.exists() else BROKEN


def refuse_other(run: Planned) -> None:
    """Raise if a folder holds a run with other settings; nothing of it is touched.

    Raises:
        InputError: naming what differs.
    """
    if not (run.folder / CONFIG).exists():
        return
    there = read_run(run.folder)
    if there.config["digest"] == run.config.digest():
        return
    now, then = jsonable(run.config.values(local=False)), there.values
    differing = [f"{n} (was {then.get(n)}, is {now[n]})" for n in now if then.get(n) != now[n]]
    told = ", ".join(differing[:5]) or "values that are no longer there"
    raise InputError(
        f"{run.folder} holds a run with other settings: {told}; give another --out, or rename that folder"
    )


def lacking(run: Planned) -> list[str]:
    """What is missing for a run to be finished, in words.

    Raises:
        InputError: if its config.json is not a run's.
    """
    if not (run.folder / CONFIG).exists():
        return [CONFIG]
    to_come = [] if trained(run) else ["the end of its training"]
    return to_come + _lacking(run, run.folder, records_of(run.folder, run.config.digest()))


def lacking_of(run: Planned, adaptation: Adaptation) -> list[str]:
    """What is missing for an adaptation to be finished, in words; one of an older model is missing whole.

    Raises:
        InputError: if its folder holds one with other settings.
    """
    folder = adaptation_folder(run, adaptation)
    own, there = records_of(run.folder, run.config.digest()), records_of(folder, adaptation.digest)
    picked = read_run(run.folder).picked if (run.folder / CONFIG).exists() else {}
    label = adapted_model(run, adaptation)
    picks = (label.removeprefix("best_"),) if label.startswith("best_") else ("", run.config.eval.name)
    current = [r for r in there if r.picked_by in picks and epoch_now(r, own, picked) in (None, r.epoch)]
    missing = _lacking(run, folder, current)
    if missing and len(there) < len(read_records(folder / RESULTS)):
        raise InputError(f"{folder} holds predictions with other settings; rename that folder")
    return missing


def adapted_model(run: Planned, adaptation: Adaptation) -> str:
    """Label of the checkpoint that an adaptation predicts with.

    It is the one of the epoch that the adaptation picked, unless the run was finished before the sweep had
    this adaptation: then that of the run's own epoch, and tables say so.
    """
    if run.model_of(adaptation.model).exists() or not trained(run):
        return adaptation.model
    return run.checkpoint


def trained(run: Planned) -> bool:
    """Whether a run's training has come to its end, whatever is missing since."""
    if not (run.folder / CONFIG).exists():
        return False
    return not is_unfinished(read_run(run.folder).config, records_of(run.folder, run.config.digest()))


def records_of(folder: Path, digest: str) -> list[Record]:
    """The records in a folder that name a configuration."""
    return [r for r in read_records(folder / RESULTS) if r.config_sha256 == digest]


def _lacking(run: Planned, folder: Path, records: Sequence[Record]) -> list[str]:
    """Splits without a record, and predictions without a file."""
    found = {r.split: r for r in records if r.checkpoint == run.checkpoint}
    missing = [f"the record of {split}" for split in splits_of(run) if split not in found]
    return missing + [r.predictions for r in found.values() if not (folder / r.predictions).exists()]


def splits_of(run: Planned) -> list[str]:
    """The splits that a run has to predict: its data set's, without the id_test that one site leaves none of.

    Whether there is one is told by the logs: all splits that there are have theirs since the first epoch.
    """
    logged = [split for split in run.splits if (run.folder / f"{split}_eval.csv").exists()]
    without = "test" in logged and "id_test" not in logged
    if without and read_run(run.folder).values["evaluate_all_splits"]:
        return [split for split in run.splits if split != "id_test"]
    return list(run.splits)


def adaptation_folder(run: Planned, adaptation: Adaptation) -> Path:
    """Where `abra-wilds predict` puts an adaptation."""
    return run.folder / f"tta_{adaptation.name}"


def unfinished(run: Planned) -> list[Adaptation]:
    """The adaptations of a run that are yet to be made, wholly or in part.

    Raises:
        InputError: if a folder holds one with other settings.
    """
    return [a for a in run.adaptations if lacking_of(run, a)]


def clear(run: Planned, adaptation: Adaptation) -> None:
    """Remove the predictions that `abra-wilds predict` would refuse to overwrite; other checkpoints' stay."""
    data, t = run.config.data, run.config.train
    names = RunFolder(adaptation_folder(run, adaptation), data.dataset, t.seed, f"_tta:{adaptation.name}")
    for path in names.path.glob(names.predictions("*", run.checkpoint).name):
        path.unlink()


@contextmanager
def locked(run: Planned, patience: float = 0) -> Iterator[int | None]:
    """A run's lock, as the file descriptor to pass on to whoever works on it; None if another has it.

    The system releases it when the last process that holds the descriptor has ended, however it ends. So no
    lock can be left behind, and a run whose sweep was killed stays locked until it has ended itself.

    Args:
        run: whose lock.
        patience: seconds to wait for it.

    Raises:
        InputError: if the file system has no locks.
    """
    path = lock_of(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        end = time.monotonic() + patience
        while not (mine := _take(fd, path)) and time.monotonic() < end:
            time.sleep(0.1)
        if mine:
            os.ftruncate(fd, 0)
            os.write(fd, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        yield fd if mine else None
    finally:
        os.close(fd)


def _take(fd: int, path: Path) -> bool:
    """Try to lock a file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as fault:
        raise InputError(
            f"{path} cannot be locked ({fault.strerror}), so two sweeps could do the same run; give an --out "
            "on a file system with flock"
        ) from None
    return True


def lock_of(run: Planned) -> Path:
    """The lock's file, which stays; what it says is for people."""
    return run.folder.with_name(f".{run.folder.name}.lock")
