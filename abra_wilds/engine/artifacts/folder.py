"""The folder of a run: WILDS' file names, and what may stand in it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from abra_wilds.config.model import ModelConfig
from abra_wilds.config.run import OWN_LOOP, RunConfig, schema_of
from abra_wilds.config.schema import jsonable
from abra_wilds.dist import is_main, on_rank_zero
from abra_wilds.errors import InputError
from abra_wilds.nets.backbones import by_timm
from abra_wilds.results.files import sha256, write_text
from abra_wilds.results.lock import hold, holder_of
from abra_wilds.results.names import COLON, found, model_name, predictions_name, sign_in
from abra_wilds.results.provenance import commit, versions
from abra_wilds.results.records import CONFIG, MODEL, RESULTS

TRACKER = "tensorboard"
LOCK = ".run.lock"
OUR_FILES = re.compile(
    rf"log\.txt|{re.escape(CONFIG)}|{re.escape(RESULTS)}|{TRACKER}|{MODEL}"
    r"|.+_(eval|algo)\.csv|.+_pred\.csv|.+_model\.pth|.+_components_.+\.pth|\..+\.tmp"
)


@dataclass(frozen=True)
class RunFolder:
    """Names of a run's files.

    Attributes:
        path: the folder.
        dataset: name of the data set.
        seed: of the run.
        mark: what stands after the epoch in the names of predictions.
        sign: what new names have for WILDS' colons.
    """

    path: Path
    dataset: str
    seed: int
    mark: str = ""
    sign: str = COLON

    def predictions(self, split: str, epoch: str | int) -> Path:
        """Predictions of a split by the "best", "last" or numbered epoch."""
        return self.named(predictions_name(self.dataset, split, self.seed, epoch, self.mark))

    def model(self, epoch: str | int) -> Path:
        """Checkpoint of the "best", "last" or numbered epoch."""
        return self.named(model_name(self.dataset, self.seed, epoch))

    def named(self, name: str) -> Path:
        """A file by its official name: as it is there, or else as this folder would have it."""
        return found(self.path / name, self.sign)

    def writable(self) -> RunFolder:
        """The same with the sign that new names can have here.

        Raises:
            OSError: if nothing can be written here.
        """
        return replace(
            self, sign=sign_in(self.path, predictions_name(self.dataset, "id_test", self.seed, "best"))
        )

    def sign_lines(self) -> list[str]:
        """For the log: how names are written where the disk refuses WILDS'."""
        if self.sign == COLON:
            return []
        return [
            f"{self.path} takes no ':' in names of files, so '{self.sign}' stands for it; every command here "
            "reads either"
        ]

    def kept(self, epoch: int) -> str:
        """What is left of a run that ends before an epoch is complete, in words."""
        last = self.model("last")
        if not last.exists():
            return "no epoch was completed"
        return f"{last.name} holds the state after epoch {epoch - 1}"


def folder_of(config: RunConfig) -> RunFolder:
    """The names of a run's files; nothing is touched."""
    return RunFolder(Path(config.train.log_dir), config.data.dataset, config.train.seed)


@contextmanager
def hold_folder(config: RunConfig) -> Iterator[None]:
    """Keep every other command from writing to the run's folder while the block runs.

    It is held before anything of it is read, so that what was read stays true. A folder that was made for
    this and in which nothing was written goes again.

    Raises:
        InputError: on every process, if another command holds it, or it cannot be written.
    """
    with ExitStack() as stack:
        on_rank_zero(lambda: _hold(folder_of(config), stack, config.eval.eval_only))
        yield


def _hold(folder: RunFolder, stack: ExitStack, eval_only: bool) -> None:
    path = folder.path
    if eval_only and not path.is_dir():
        raise InputError(f"--log_dir {path} does not exist, so it holds no model to evaluate; train first")
    made = [above for above in (path, *path.parents) if not above.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder.writable()
    except OSError as fault:
        raise InputError(
            f"--log_dir {path} cannot be written ({fault.strerror}); give another folder"
        ) from None
    keep_others_out(path, stack, "log_dir", made)


def keep_others_out(path: Path, stack: ExitStack, flag: str, made: Sequence[Path] = ()) -> None:
    """Hold a folder's lock until the stack closes; then those folders go that were made and stayed empty.

    Raises:
        InputError: if another command holds it; `flag` names the folder.
    """
    if not stack.enter_context(hold(path / LOCK)):
        raise InputError(
            f"--{flag} {path} is in use by {holder_of(path / LOCK)}; wait until that has ended, or give "
            "another folder"
        )
    stack.callback(_leave, path, made)  # while the lock is still held


def _leave(path: Path, made: Sequence[Path]) -> None:
    """Remove the lock's file, and folders that were made for a run of which nothing came."""
    with suppress(OSError):  # Windows removes no file that is open
        (path / LOCK).unlink()
    for folder in made:
        with suppress(OSError):  # it holds something
            folder.rmdir()


def open_folder(config: RunConfig) -> RunFolder:
    """The run's folder, found free for this run; it is held (`hold_folder`).

    Raises:
        InputError: if it is not empty without --resume or --overwrite.
    """
    t, folder = config.train, folder_of(config)
    path = folder.path
    inside = sorted({entry.name for entry in path.iterdir()} - {LOCK})
    if inside and t.overwrite:
        _empty(path, inside)
    elif inside and not (t.resume or config.eval.eval_only):
        raise InputError(
            f"--log_dir {path} is not empty; continue with --resume, start again with --overwrite, or give "
            "another folder"
        )
    return folder.writable()


def check_last_model(folder: RunFolder) -> None:
    """Raise where a run would start over in a folder that holds more of one than its first epoch.

    Models and predictions of an epoch come after its line in the csv files, and its last model after them.

    Raises:
        InputError: naming the last model, which is missing, and what there is.
    """
    last, path = folder.model("last").name, folder.path
    logs = {log: len(log.read_text(encoding="utf-8").splitlines()) for log in path.glob("*_eval.csv")}
    found = [log for log, n in logs.items() if n > 2] + list(path.glob(RESULTS))
    if max(logs.values(), default=0) < 2:  # nothing says of which epoch they are
        found += [name for pattern in ("*_model.pth", "*_pred.csv") for name in path.glob(pattern)]
    if found and not folder.model("last").exists():
        raise InputError(
            f"--resume continues from {last}, which --log_dir {path} does not hold, although it holds "
            f"{min(found).name}; restore that model, start again with --overwrite, or give another folder"
        )


def forget_first_epoch(folder: RunFolder) -> None:
    """Remove models and predictions of a first epoch that starts over, before the logs lose its rows.

    Otherwise, if the epoch were cut short once more, nothing would say that they are of the first.
    """
    for pattern in ("*_model.pth", "*_pred.csv"):
        for path in folder.path.glob(pattern):
            path.unlink()


def _empty(path: Path, inside: list[str]) -> None:
    foreign = [name for name in inside if not OUR_FILES.fullmatch(name)]
    if foreign:
        raise InputError(
            f"--overwrite empties folders of runs only, and --log_dir {path} also holds {foreign[0]}; give "
            "another folder"
        )
    for name in inside:
        entry = path / name
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def write_config(
    folder: RunFolder,
    config: RunConfig,
    command: Sequence[str] | None = None,
    data_sha256: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """config.json: every value, where it came from, what code and data it has; of the main process alone.

    It says that the run is not finished, which `mark_finished` changes.

    Args:
        folder: of the run.
        config: of the run.
        command: as it was given; None takes this process'.
        data_sha256: `data_digest` of what it trains on; None where that is not known.
        data: what the images, classes and bio-batches are (`catalogue.described`); None where not known.
    """
    # Written at the start and again at the end: `finished` is the only word that a run is whole.
    if not is_main():
        return
    content = {
        "command": started_by() if command is None else list(command),
        "preset": config.preset,
        "values": jsonable(config.values()),
        "origin": dict(config.origin),
        "bio_batch": config.data.bio_batch,
        "data": None if data is None else dict(data),
        "model": {"backbone": config.model.model, "outside_data": outside_data(config.model)},
        "world": config.world,
        "digest": config.digest(),
        "commit": commit(),
        "versions": versions(),
        "data_sha256": data_sha256,
        "finished": False,
    }
    write_text(folder.path / CONFIG, json.dumps(content, indent=2) + "\n")


def mark_finished(folder: RunFolder, picked: Mapping[str, int]) -> None:
    """Let config.json say that the run is whole: its last epoch is done, and everything is written.

    Args:
        folder: of the run.
        picked: adaptation of --also_tta -> the epoch that it picked.
    """
    content = {**read_config(folder), "finished": True, "picked": dict(picked)}
    write_text(folder.path / CONFIG, json.dumps(content, indent=2) + "\n")


def note_predictions(folder: RunFolder, config: RunConfig, run: Mapping[str, Any], checkpoint: Path) -> None:
    """config.json of a folder of predictions: of which run and model they are, and by which settings.

    A folder may hold predictions by several models or settings; each is kept by its digest.

    Args:
        folder: of the predictions.
        config: they were made with.
        run: the content of the run's config.json.
        checkpoint: the model.
    """
    known = read_config(folder)
    content = {
        "predictions_of": run.get("digest"),
        "models": {**known.get("models", {}), checkpoint.name: sha256(checkpoint)},
        "settings": {**known.get("settings", {}), config.digest(): jsonable(config.values(local=False))},
        "data_sha256": run.get("data_sha256"),
        "commit": commit(),
        "versions": versions(),
    }
    write_text(folder.path / CONFIG, json.dumps(content, indent=2) + "\n")


def outside_data(m: ModelConfig) -> str | None:
    """Where the first weights come from, if not from the seed."""
    if m.pretrained_model_path is not None:
        return f"the weights of {m.pretrained_model_path}"
    if not m.pretrained:
        return None
    name = m.model.removeprefix("timm:")
    return f"{name}, published by timm" if by_timm(m.model) else "ImageNet"


def started_by() -> list[str]:
    """This process's command line; where the package's own module was started, as a person would type it."""
    program, *words = sys.argv
    own = Path(program).parts[-3:] == ("abra_wilds", "commands", "train.py")
    return ["abra-wilds", "train", *words] if own else [program, *words]


def read_config(folder: RunFolder) -> dict[str, Any]:
    """The content of config.json; empty where there is none.

    Raises:
        InputError: if it cannot be read.
    """
    path = folder.path / CONFIG
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("values", {}), dict):
        raise InputError(f"{path} is no JSON of a run; restore it, or start again with --overwrite")
    return content


def as_trained(folder: RunFolder, config: RunConfig) -> RunConfig:
    """The configuration with the loop and processes that trained the folder's model: it predicts the same."""
    values = read_config(folder).get("values", {})
    return replace(config, loop=values.get("loop", config.loop), world=values.get("world", config.world))


def check_same_run(folder: RunFolder, config: RunConfig, data_sha256: str | None = None) -> None:
    """Raise if the folder holds a run that differs in anything that can change a number.

    What an older version did not record counts as the default, which is what that version did.

    Args:
        folder: of a run, or empty.
        config: of the run that would go on there.
        data_sha256: `data_digest` of what that one has; None where it is not known.

    Raises:
        InputError: naming what differs.
    """
    saved = read_config(folder)
    known = {saved.get("data_sha256"), data_sha256} - {None}
    if len(known) > 1:
        qc = config.data.qc
        raise InputError(
            f"{folder.path} holds a run on other labels or metadata than --root_dir {config.data.root_dir} "
            f"{f'and --qc {qc} have' if qc else 'has'} now; give the data of that run, or another --log_dir"
        )
    if not saved or saved.get("digest") == config.digest():
        return
    now = jsonable(config.values(local=False))
    then = {**jsonable(defaults(config)), **saved.get("values", {})}
    said = {"world": "number of processes"}
    # World and loop are part of the digest: other processes draw other batches.
    differing = [
        f"{said.get(name, name)} (was {then.get(name)}, is {now[name]})"
        for name in now
        if now[name] != then.get(name)
    ]
    if not differing:
        return
    raise InputError(
        f"{folder.path} holds a run with other settings: {', '.join(differing)}; repeat its command, or "
        "give another --log_dir"
    )


def defaults(config: RunConfig) -> dict[str, Any]:
    """Flag name -> its value where nothing decides otherwise, over all sections."""
    return {"loop": OWN_LOOP, "world": 1, **schema_of(type(config.method)).defaults()}
