"""Sweeps whose runs are stand-ins, for tests of what is started when.

As a program it is `leaderboard/sweep.py` with stand-ins: sweeps.py PLAYBOOK ARGUMENTS.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from abra_wilds.board.sweep.launch import Programs
from abra_wilds.board.sweep.plan import Planned, plan
from abra_wilds.board.sweep.spec import read_spec
from abra_wilds.commands.board.sweep import main as sweep_main
from abra_wilds.engine.artifacts.folder import RunFolder, write_config
from abra_wilds.engine.evaluation.saved import changed
from tests import runs
from tests.board import boards

FAKE = Path(__file__).with_name("fake_run.py")
TTA = {"tta": "plate_bn"}
REAL_TTA = {**TTA, "tta_min": 2}  # small screens have small plates
SETTINGS = {"model": "resnet18", "pretrained": False}
ROWS = (
    {"label": "ERM", "algorithm": "ERM"},
    {"label": "ABRA (ours)", "algorithm": "ABRA", "tta": [TTA]},
)
PREDICT_TINY = """
import sys
from abra_wilds.__main__ import main
from tests import runs
runs.backbones.BACKBONES["resnet18"] = runs.tiny_backbone
sys.exit(main())
"""
# Real programs with a tiny network; they start in the repository.
TINY = Programs(
    ("-m", "tests.runs"),
    (sys.executable, "-c", PREDICT_TINY, "predict"),
    (sys.executable, "-m", "tests.board.sweep.sweeps", "tiny"),
)
# Everything that those two rows and two seeds start.
ALL = (
    *("ERM/seed0", "ERM/seed1", "ABRA_ours/seed0", "ABRA_ours/seed1"),
    *("seed0/tta_plate_bn", "seed1/tta_plate_bn"),
)


class Stage:
    """A sweep of stand-ins in a folder.

    Attributes:
        spec, out: the sweep's file and folder.
        planned: its runs.
        playbook: what the stand-ins do; see fake_run.py.
    """

    def __init__(self, screen: boards.Screen, tmp: Path, rows: Sequence[Any] = ROWS, **more: Any) -> None:
        self.spec, self.out, self.path = tmp / "spec.yaml", tmp / "RUNS", tmp / "playbook.json"
        content = {"name": "two", "seeds": [0, 1], "settings": SETTINGS, "rows": list(rows)}
        self.spec.write_text(yaml.safe_dump(content | more))
        self.planned = plan(read_spec(self.spec), self.out)
        self.playbook: dict[str, Any] = {"log": str(tmp / "starts.log"), "folders": {}}
        for number, run in enumerate(self.planned):
            own = tmp / "made" / str(number)
            self.playbook["folders"][str(run.folder)] = {"copy": str(write_run(screen, own, run))}
            if run.adaptations:
                adapted = write_adapted(screen, tmp / "made" / f"{number}_tta", run)
                self.playbook["folders"][str(run.folder / "tta_plate_bn")] = {"copy": str(adapted)}
        self.change()

    def change(self, folder: Path | None = None, **values: Any) -> None:
        """Let the stand-in of a folder, or all, do something else."""
        for name, part in self.playbook["folders"].items():
            if folder is None or name == str(folder):
                part |= values
        self.path.write_text(json.dumps(self.playbook))

    def words(self, *more: str) -> list[str]:
        """The command line of the sweep."""
        return [str(self.spec), "--out", str(self.out), "--devices", "cpu", *more]

    def __call__(self, *more: str) -> int:
        """The sweep, in this process."""
        return sweep_main(self.words(*more), programs_of(self.path))

    def child(self, *more: str) -> subprocess.Popen[str]:
        """The sweep as a process that leads a group."""
        command = [sys.executable, "-m", "tests.board.sweep.sweeps", str(self.path), *self.words(*more)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=runs.REPOSITORY, text=True, stdout=pipe, stderr=pipe, start_new_session=True
        )

    def log(self, what: str) -> list[str]:
        """Folders of all starts, or of all ends, so far."""
        path = Path(self.playbook["log"])
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{what} ")]

    def run(self, name: str) -> Planned:
        """The run called so."""
        return next(run for run in self.planned if run.name == name)


def wait_for(condition: Callable[[], Any], patience: float = 300) -> None:
    """Wait until something is so."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def real(
    root: Path, folder: Path, rows: Sequence[Any], seeds: Sequence[int], **changes: Any
) -> tuple[list[str], list[Planned]]:
    """The words of a sweep of tiny runs, and those runs."""
    values = runs.settings(root, folder, "ERM", transform="none", **changes)
    own = {k: v for k, v in values.items() if k not in ("root_dir", "log_dir", "device")}
    spec, out = folder / "spec.yaml", folder / "RUNS"
    content = {"name": "real", "seeds": list(seeds), "settings": own, "rows": list(rows)}
    spec.write_text(yaml.safe_dump(content))
    words = [str(spec), "--out", str(out), "--root_dir", str(root), "--devices", "cpu"]
    return words, plan(read_spec(spec), out, str(root))


def write_run(screen: boards.Screen, folder: Path, run: Planned) -> Path:
    """What a run leaves."""
    folder.mkdir(parents=True)
    own = RunFolder(folder, run.config.data.dataset, run.config.train.seed)
    write_config(own, run.config, ["run_expt.py"])
    boards.write_results(screen, own, run.config)
    boards.finish(folder, run.config.optim.n_epochs - 1)
    own.model("best").touch()
    return folder


def write_adapted(screen: boards.Screen, folder: Path, run: Planned, tta: Mapping[str, Any] = TTA) -> Path:
    """What an adaptation leaves."""
    folder.mkdir(parents=True)
    own = RunFolder(folder, run.config.data.dataset, run.config.train.seed, "_tta:plate_bn")
    boards.write_results(screen, own, changed(run.config, tta))
    return folder


def programs_of(playbook: Path) -> Programs:
    """The stand-ins."""
    fake = (str(FAKE), str(playbook))
    own = (sys.executable, "-m", "tests.board.sweep.sweeps", str(playbook))
    return Programs(fake, (sys.executable, *fake), own)


def tiny_child(words: Sequence[str]) -> subprocess.Popen[str]:
    """A sweep of real runs with tiny networks, as a process that leads a group."""
    command = [sys.executable, "-m", "tests.board.sweep.sweeps", "tiny", *words]
    return subprocess.Popen(
        command, cwd=runs.REPOSITORY, text=True, stdout=subprocess.PIPE, start_new_session=True
    )


def main(argv: Sequence[str]) -> int:
    """A sweep with stand-ins, or with tiny networks."""
    programs = TINY if argv[0] == "tiny" else programs_of(Path(argv[0]))
    return sweep_main(argv[1:], programs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
