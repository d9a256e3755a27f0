"""Commands on Slurm, through submitit: the sweep of a run alone, or the work on a screen that jobs share.

A job that is pre-empted or out of time is queued again, and goes on because what it starts looks at what is
there.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abra_wilds.config.files import once
from abra_wilds.errors import InputError
from abra_wilds.recipes.flags import parse_pair

FOLDER = ".slurm"  # of submitit's files, below --out
REQUEUES = 20  # times that a job may run out of its time; pre-emptions are not counted


class Job:
    """A command that submitit runs, and submits again when its job has to go."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command, self.folder = list(command), os.getcwd()

    def __call__(self) -> None:
        """Run it.

        Raises:
            RuntimeError: if it fails; Slurm then shows the job as failed.
        """
        # Slurm warns every process of a job by this signal, and only submitit's is to act on it: a blocked
        # signal stays blocked in what is started here.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        child = subprocess.Popen(self.command, cwd=self.folder)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        try:
            code = child.wait()
        finally:
            child.terminate()
            child.wait()
        if code:
            raise RuntimeError(f"exit code {code}; the lines above say why")

    def checkpoint(self) -> Any:
        """The same again, for submitit."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def read_parameters(pairs: Sequence[str], gpus: int) -> dict[str, Any]:
    """What --slurm gives, as parameters of submitit's SlurmExecutor.

    Args:
        pairs: key=value of each.
        gpus: of a job where nothing else is given.

    Raises:
        InputError: without a time, or for what is no pair.
    """
    try:
        found = once(map(parse_pair, pairs), "slurm")
    except argparse.ArgumentTypeError as fault:
        raise InputError(f"--slurm takes key=value ({fault})") from None
    # YAML reads 2:00:00 as a number, and submitit's own time is five minutes.
    times = [pair.partition("=")[2] for pair in pairs if pair.startswith("time=")]
    if not times or not times[-1].isdecimal():
        raise InputError(f"--slurm needs time=MINUTES, a whole number; got {' '.join(pairs)}")
    return {"gpus_per_node": gpus, **found} if gpus else found


def slurm_executor(folder: Path, parameters: Mapping[str, Any]) -> Any:
    """The executor of submitit for this cluster.

    Args:
        folder: for the files of jobs; all nodes must see it.
        parameters: of sbatch, in submitit's names.

    Raises:
        InputError: without submitit or Slurm, or for a parameter that sbatch has not.
    """
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise InputError(
            "--slurm needs submitit, which is not installed; run `pip install 'abra-wilds[slurm]'`"
        ) from None
    try:
        executor = SlurmExecutor(folder, max_num_timeout=REQUEUES)
        executor.update_parameters(**parameters)
    except RuntimeError:
        raise InputError("--slurm finds no srun here; start it on a node of the cluster") from None
    except ValueError as fault:
        reason = " ".join(str(fault).split())
        raise InputError(
            f"--slurm has an option that submitit cannot pass to sbatch: {reason}; correct it"
        ) from None
    return executor


def submit(executor: Any, commands: Sequence[Sequence[str]]) -> list[Any]:
    """Submit commands as one array of jobs.

    Args:
        executor: of submitit, for Slurm or this machine.
        commands: one a job.
    """
    import cloudpickle

    # Jobs start where this folder is no place for imports.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    jobs: list[Any] = executor.submit_array([Job(command) for command in commands])
    return jobs


def submit_shared(words: Sequence[str], pairs: Sequence[str], out: Path, jobs: int, gpus: int) -> int:
    """Submit a command of `abra-wilds` that shares its work with others like it; returns the exit code.

    Args:
        words: of the command, --slurm and --jobs among them.
        pairs: what --slurm gives.
        out: the folder that the jobs fill; all nodes must see it.
        jobs: how many.
        gpus: of each.

    Raises:
        InputError: as `read_parameters` and `slurm_executor`, or for no job.
    """
    if jobs < 1:
        raise InputError(f"--jobs must be 1 or more; got {jobs}")
    executor = slurm_executor(out.resolve() / FOLDER, read_parameters(pairs, gpus))
    command = [sys.executable, "-m", "abra_wilds", *without_flags(words, ("slurm", "jobs"))]
    found = submit(executor, [command] * jobs)
    print(f"submitted {', '.join(job.job_id for job in found)}; output of jobs is in {out / FOLDER}")
    return 0


def without_flags(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """A command line without some flags and their values.

    >>> without_flags(["embed", "m", "--slurm", "time=5", "--tta", "none", "--jobs=3"], ["slurm", "jobs"])
    ['embed', 'm', '--tta', 'none']
    """
    kept, dropping = [], False
    for word in words:
        if word.startswith("--"):
            dropping = word[2:].partition("=")[0] in names
        if not dropping:
            kept.append(word)
    return kept
