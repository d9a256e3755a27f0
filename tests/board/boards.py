"""Run folders with made-up predictions on a simulated screen's metadata, for tests of leaderboard/."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from abra_wilds.engine.artifacts.folder import (
    RunFolder,
    mark_finished,
    note_predictions,
    read_config,
    write_config,
)
from abra_wilds.engine.evaluation.saved import changed
from abra_wilds.recipes.resolve import run_config
from abra_wilds.results.files import sha256
from abra_wilds.results.records import CONFIG, RESULTS, Record, append_records, read_records
from abra_wilds.simulate import MARKER, preset
from abra_wilds.simulate.design import metadata_table
from tests import runs

SCRIPTS = runs.REPOSITORY / "leaderboard"
BOARD = runs.REPOSITORY / "abra_wilds" / "board"

SPECS = {path.stem: path for path in sorted((BOARD / "specs").glob("*.yaml"))}
OF_SCREENS = tuple(name for name in SPECS if "mitocheck" in name)  # run on a table, given by --screen
SPLITS = ("val", "test", "id_test")
ADAPTED = {"tta": "plate_bn", "adapted": {"tta": "plate_bn"}}  # values of `make_run`
CONSUMED = {
    **{"images": 100, "steps": 10, "forward_equivalents": 300, "seconds": 1.0, "labels": 100},
    **{"batch_statistics": False, "test_images": False, "outside_data": "ImageNet"},
}


@dataclass(frozen=True)
class Screen:
    """A screen of which there is metadata alone: root_dir, and each split's rows in the data set's order."""

    root: Path
    rows: Mapping[str, pd.DataFrame]


def make_screen(root: Path, name: str = "mini") -> Screen:
    """Write the metadata of a simulated screen."""
    folder = root / "rxrx1_v1.0"
    folder.mkdir(parents=True)
    table = metadata_table(preset(name))
    table.to_csv(folder / "metadata.csv", index=False)
    (folder / "RELEASE_v1.0.txt").touch()
    (folder / MARKER).write_text("{}")
    part = table["dataset"].where((table["dataset"] != "train") | (table["site"] == 1), "id_test")
    return Screen(root, {split: table[part == split].reset_index(drop=True) for split in SPLITS})


def guesses(screen: Screen, split: str, seed: int, right: float = 0.5) -> np.ndarray:
    """Predictions (n,) of a split of which about this share is right."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    y = screen.rows[split]["sirna_id"].to_numpy()
    return np.where(rng.random(len(y)) < right, y, rng.permutation(y))


def make_run(screen: Screen, folder: Path, seed: int, tta: str | None = None, **values: Any) -> Path:
    """A finished run: its config.json, predictions of the best epoch and records, stray ones of epoch 5.

    It does not keep its last epoch, unless `values` say so; then `finish` adds the records of that.

    Args:
        screen: whose labels are guessed.
        folder: of the run.
        seed: of the run.
        tta: also an adaptation of this name, which `values` of `abra-wilds predict` make.
        values: flags of the run; `adapted` are those of the prediction.
    """
    adapted = values.pop("adapted", {})
    algorithm = values.pop("algorithm", "ABRA")
    values = {"save_last": False, "bn_stats": "precise", **values}
    config = run_config(algorithm, **values, seed=seed, root_dir=str(screen.root), log_dir=str(folder))
    own = RunFolder(folder, config.data.dataset, seed)
    folder.mkdir(parents=True)
    write_config(own, config, ["examples/run_expt.py", "--algorithm", algorithm, "--seed", str(seed)])
    if not config.train.save_last:
        mark_finished(own, {})
    write_results(screen, own, config)
    for split in SPLITS:
        own.predictions(split, 5).write_text("0\n")
    if tta is not None:
        other = replace(own, path=folder / f"tta_{tta}", mark=f"_tta:{tta}")
        other.path.mkdir()
        model = own.model("best")
        model.touch()
        note_predictions(other, changed(config, adapted), read_config(own), model)
        write_results(screen, other, changed(config, adapted))
    return folder


def write_results(screen: Screen, folder: RunFolder, config: Any) -> None:
    """Predictions and records of one set of predictions."""
    tta = config.eval.adaptation
    entered = {"batch_statistics": tta is not None, "test_images": tta is not None}
    for split, rows in screen.rows.items():
        y_pred = guesses(screen, split, folder.seed)
        path = folder.predictions(split, "best")
        path.write_text("".join(f"{label}\n" for label in y_pred))
        right = pd.Series(y_pred == rows["sirna_id"].to_numpy())
        record = Record(
            method=config.algorithm,
            dataset=config.data.dataset,
            simulated=True,
            backbone=config.model.model,
            split=split,
            seed=folder.seed,
            checkpoint="best",
            epoch=7 + folder.seed,
            tta=tta,
            bn_stats=config.eval.bn_stats,
            bio_batch=config.data.bio_batch,
            train_loader=config.data.train_loader,
            preset=config.preset,
            acc=float(right.mean()),
            acc_by_cell=right.groupby(rows["cell_type"].to_numpy()).mean().to_dict(),
            n=len(rows),
            predictions=path.name,
            predictions_sha256=sha256(path),
            config_sha256=config.digest(),
            commit="0123abc",
            versions={"python": "3.11", "wilds": "2.0.0"},
            wall_s=1.0,
            consumed=CONSUMED | entered,
        )
        append_records(folder.path / RESULTS, [record])


def finish(folder: Path, epoch: int) -> None:
    """Add the records of the last epoch to those of the best, and say so, as training does at its end."""
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**content, "finished": True}))
    best = read_records(folder / RESULTS)
    append_records(folder / RESULTS, [replace(r, checkpoint="last", epoch=epoch) for r in best])


def make_runs(screen: Screen, folder: Path, seeds: Sequence[int] = (0, 1, 2), **values: Any) -> Path:
    """A folder of runs, one for each seed."""
    for seed in seeds:
        make_run(screen, folder / f"seed{seed}", seed, **values)
    return folder


def change_records(folder: Path, split: str | None = None, **changes: Any) -> None:
    """Rewrite the records of a split, or of all, in a folder."""
    path = folder / RESULTS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    said = [{**r, **changes} if split in (None, r["split"]) else r for r in lines]
    path.write_text("".join(json.dumps(asdict(Record(**r))) + "\n" for r in said))


def rewrite(folder: Path, split: str, lines: Sequence[Any]) -> None:
    """Replace the predictions of a split by the best epoch, and let the record know."""
    (path,) = folder.glob(f"rxrx1_split:{split}_seed:*_epoch:best*_pred.csv")
    path.write_text("".join(f"{line}\n" for line in lines))
    change_records(folder, split, predictions_sha256=sha256(path))


# A finder and not None in sys.modules, because scipy asks there whether torch is loaded.
BARE = """
import runpy, sys

class Absent:
    def find_spec(name, path=None, target=None):
        if name in {absent!r}:
            raise ImportError(name)

sys.meta_path.insert(0, Absent)
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    # Not getrusage's: that begins with what the parent held.
    print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def script(name: str, *args: object, cwd: Path, absent: str = "") -> tuple[str, str, int]:
    """A script of leaderboard/ as a person starts it, which ends well: stdout, stderr and its peak in KiB.

    Args:
        name: of the script.
        args: of the script.
        cwd: where it starts.
        absent: packages that it cannot import.
    """
    bare = BARE.format(absent=absent.split())
    command = [sys.executable, "-c", bare, str(SCRIPTS / name), *map(str, args)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, peak = done.stderr.splitlines()
    return done.stdout, "".join(f"{line}\n" for line in lines), int(peak)


def seconds_of_children() -> float:
    """Processor time of all processes that this one has started and seen end; no load of others is in it."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
