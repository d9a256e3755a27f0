"""The processes of a sweep: one that trains a run, then one for each of its adaptations."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from abra_wilds.board.sweep.plan import Adaptation, Planned
from abra_wilds.board.sweep.state import BROKEN, FINISHED, RESUMES, RunState, clear

ELSEWHERE = "is left to another sweep, which is at it"
TRAIN, SWEEP = "abra_wilds.commands.train", "abra_wilds.commands.board.sweep"
CONSOLE = "abra_wilds"
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Failed(RuntimeError):
    """A process of a sweep has failed; the message is the last line that it wrote."""


@dataclass(frozen=True)
class Programs:
    """The beginnings of the commands that a sweep starts, without the interpreter for `train`.

    Attributes:
        train: the main command.
        predict: `abra-wilds predict`.
        sweep: this command, for jobs on other machines.
    """

    train: tuple[str, ...]
    predict: tuple[str, ...]
    sweep: tuple[str, ...]

    @classmethod
    def ours(cls) -> Programs:
        """Those of this package."""
        python = sys.executable
        return cls(("-m", TRAIN), (python, "-m", CONSOLE, "predict"), (python, "-m", SWEEP))


class Launcher:
    """Starts processes, and stops those that are running.

    Args:
        programs: what is started.
        k: devices of each run, with a process each.
        jobs: runs side by side, which share the cores where they compute on them.
    """

    def __init__(self, programs: Programs, k: int, jobs: int) -> None:
        self.programs = programs
        self.k = k
        self.threads = max(1, (os.cpu_count() or 1) // (jobs * k))
        self.children: set[subprocess.Popen[bytes]] = set()
        self.guard = threading.Lock()
        self.stopped = False

    def do(self, run: Planned, slot: Sequence[str], ours: bool) -> str:
        """Train a run as far as it is not, and make its adaptations; returns what was done.

        Args:
            run: to be done.
            slot: its devices.
            ours: whether its lock is held; if not, another sweep is at it.

        Raises:
            Failed: with the last line of a process that failed.
            InputError: if its folder has come to hold another run.
        """
        if not ours:
            return ELSEWHERE
        began, state = time.monotonic(), RunState(run)  # another sweep may have been here since the plan
        parts = []
        if state.stage != FINISHED:
            self.call(run, self.training(run, state.stage, slot), slot)
            state, parts = RunState(run), ["trained"]
            check_complete(run, state.lacking())
        for adaptation in state.to_adapt:
            clear(run, adaptation)
            self.call(run, self.predicting(state, adaptation, slot), slot)
            check_complete(run, state.lacking_of(adaptation))
            parts.append(f"tta_{adaptation.name}")
        if not parts:
            return "was finished by another sweep"
        return f"done: {', '.join(parts)} in {time.monotonic() - began:.0f} s"

    def commands(self, state: RunState, slot: Sequence[str]) -> list[list[str]]:
        """Everything that is left to start for a run."""
        first = [] if state.stage == FINISHED else [self.training(state.run, state.stage, slot)]
        return first + [self.predicting(state, a, slot) for a in state.to_adapt]

    def training(self, run: Planned, stage: str, slot: Sequence[str]) -> list[str]:
        """The command that trains a run."""
        workers = ["--standalone", "--nproc_per_node", str(self.k)]
        torchrun = ["-m", "torch.distributed.run", *workers] if self.k > 1 else []
        onward = {RESUMES: ["--resume"], BROKEN: ["--overwrite"]}.get(stage, [])
        # The processes of torchrun take a device each among those they see.
        device = ["--device", slot[0]] if self.k == 1 or slot[0] == "cpu" else []
        return [sys.executable, *torchrun, *self.programs.train, *run.words, *device, *onward]

    def predicting(self, state: RunState, adaptation: Adaptation, slot: Sequence[str]) -> list[str]:
        """The command that makes an adaptation."""
        device = "0" if self.k > 1 and slot[0] != "cpu" else slot[0]
        model = str(state.run.model_of(state.model_for(adaptation)))
        return [*self.programs.predict, model, *adaptation.words, "--device", device]

    def call(self, run: Planned, command: Sequence[str], slot: Sequence[str]) -> None:
        """Run a command to its end, its output appended to the run's log.

        Raises:
            Failed: if it fails, or the sweep is being stopped.
        """
        with log_of(run).open("ab") as log:
            begun = log.tell()
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            with self.guard:
                if self.stopped:
                    raise Failed("stopped before it began")
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.environment(slot),
                )
                self.children.add(child)
            code = child.wait()
            with self.guard:
                self.children.discard(child)
        if code:
            said = f"killed by signal {-code}" if code < 0 else last_line(log_of(run), begun)
            raise Failed(f"{said or f'exit code {code}'} ({log_of(run)})")

    def environment(self, slot: Sequence[str]) -> dict[str, str]:
        """The variables of a process."""
        env = dict(os.environ)
        if slot[0] == "cpu":
            env.setdefault("OMP_NUM_THREADS", str(self.threads))
        elif self.k > 1:
            outer = env[VISIBLE].split(",") if env.get(VISIBLE) else None
            env[VISIBLE] = ",".join(outer[int(d)] if outer else d for d in slot)
        return env

    def stop(self) -> None:
        """Ask everything that is running to end, and start nothing more."""
        with self.guard:
            self.stopped = True
            for child in self.children:
                child.terminate()


def check_complete(run: Planned, missing: Sequence[str]) -> None:
    """Raise if a process that did not fail left something out.

    Raises:
        Failed: naming it.
    """
    if missing:
        raise Failed(
            f"ended well without {', '.join(missing)}; remove {run.folder} to run it again ({log_of(run)})"
        )


def log_of(run: Planned) -> Path:
    """What a run's processes wrote, beside its folder."""
    return run.folder.with_name(f"{run.folder.name}.log")


def last_line(log: Path, begun: int) -> str:
    """The last line of a log after a position, and its first line, which is the command."""
    with log.open("rb") as file:
        file.seek(begun)
        lines = file.read().decode(errors="replace").strip().splitlines()[1:]
    return lines[-1].strip() if lines else ""
