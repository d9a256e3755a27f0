"""The runs of a sweep, done side by side on the devices of a machine or handed to Slurm."""

from __future__ import annotations

import argparse
import os
import queue
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

from tqdm import tqdm

from abra_wilds.board.sweep.collect import collect
from abra_wilds.board.sweep.launch import ELSEWHERE, Failed, Launcher, Programs
from abra_wilds.board.sweep.plan import Planned, places, plan, unequal
from abra_wilds.board.sweep.slurm import FOLDER, read_parameters, slurm_executor, submit
from abra_wilds.board.sweep.spec import Spec, read_spec, spec_path
from abra_wilds.board.sweep.state import FINISHED, RunState, locked
from abra_wilds.board.terms import terms_in_words
from abra_wilds.errors import InputError
from abra_wilds.simulate import ensure, preset

SCREEN = "screen"  # below --out, where a sweep simulates its own
# Processes that were killed hold their locks until the system has taken them down.
PATIENCE = 10.0  # seconds
FAILED = "failed"


def sweep(args: argparse.Namespace, programs: Programs) -> int:
    """The command; returns its exit code.

    Raises:
        InputError: before anything is started, for whatever cannot be used or would be mixed.
    """
    spec = read_spec(spec_path(args.spec))
    root_dir = args.root_dir or (args.out / SCREEN if spec.simulate else None)
    where = (None if root_dir is None else str(root_dir), None if args.screen is None else str(args.screen))
    planned = plan(spec, args.out, where[0], args.only, args.seeds, where[1])
    slots = device_slots(args.devices, spec.gpus_per_run, args.jobs)
    states = [RunState(run) for run in planned]
    todo = [state for state in states if state.stage != FINISHED or state.to_adapt]
    print(f"{spec.name}: {len(states)} runs, {len(states) - len(todo)} finished before", flush=True)
    for state in todo:
        to_come = [state.stage, *(f"tta_{a.name}" for a in state.to_adapt)]
        print(f"  {state.run.name}: {', then '.join(to_come)}", flush=True)
    for line in differences(spec, places(*where)):
        print(f"  {line}", flush=True)
    launcher = Launcher(programs, spec.gpus_per_run, len(slots))
    if args.dry_run:
        for state in todo:
            for command in launcher.commands(state, slots[0]):
                print(shlex.join(command))
        return 0
    if spec.simulate and root_dir is not None:
        settings = dict(spec.simulate)
        ensure(root_dir, preset(settings.pop("preset", "mini"), **settings), workers=len(slots))
    runs = [state.run for state in todo]
    if args.slurm is not None:
        return on_slurm(runs, args, spec.gpus_per_run, programs)
    code = run_all(runs, launcher, slots)
    if args.records is not None:
        print(collect(planned, args.records), flush=True)
    return code


def differences(spec: Spec, where: Sequence[str] = ()) -> list[str]:
    """A line for each row that differs from the reference in terms that the spec gives no reason for."""
    found = unequal(spec, where)
    shared = {row.label: [name for name in found[row.label] if name not in row.differs] for row in spec.rows}
    return [
        f"note: {label} differs from {spec.reference} in {terms_in_words(names)}; "
        "`differs` of the row may say why"
        for label, names in shared.items()
        if names
    ]


def device_slots(devices: Sequence[str] | None, k: int, jobs: int | None) -> list[tuple[str, ...]]:
    """The devices of each run that goes on at the same time.

    Args:
        devices: indices, mps or cpu; None for the first k.
        k: devices of each run.
        jobs: runs at the same time; None for as many as there are devices for.

    Raises:
        InputError: if they are none, or too few for a run.
    """
    devices = [str(i) for i in range(k)] if devices is None else list(devices)
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be 1 or more; got {jobs}")
    if devices == ["cpu"] or (devices == ["mps"] and k == 1):
        return [tuple(devices)] * (jobs or 1)
    if not all(d.isdecimal() for d in devices) or len(set(devices)) < len(devices):
        raise InputError(f"--devices must be CUDA indices, each once, or mps or cpu; got {' '.join(devices)}")
    groups = [tuple(devices[i : i + k]) for i in range(0, len(devices) - k + 1, k)]
    if not groups:
        raise InputError(f"--devices got {' '.join(devices)}, and a run of this sweep takes {k}; give more")
    return [groups[i % len(groups)] for i in range(jobs or len(groups))]


def run_all(runs: Sequence[Planned], launcher: Launcher, slots: Sequence[tuple[str, ...]]) -> int:
    """Do runs side by side, and at the end ask again for those that were locked; returns the exit code."""
    outcomes = run_each(runs, launcher, slots)
    left = [run for run in runs if outcomes[run.name] == ELSEWHERE]
    if left:
        print(f"{len(left)} runs were locked; trying them again", flush=True)
        outcomes |= run_each(left, launcher, slots, PATIENCE)
    failures = [f"{name} {text}" for name, text in outcomes.items() if text.startswith(FAILED)]
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def run_each(
    runs: Sequence[Planned], launcher: Launcher, slots: Sequence[tuple[str, ...]], patience: float = 0
) -> dict[str, str]:
    """Do runs side by side; returns what became of each, by name.

    Args:
        runs: to do, in this order.
        launcher: of their processes.
        slots: devices of each that goes on at the same time.
        patience: seconds to wait for a lock.
    """
    free: queue.Queue[tuple[str, ...]] = queue.Queue()
    for slot in slots:
        free.put(slot)

    def do(run: Planned) -> str:
        slot = free.get()
        try:
            with locked(run, patience) as ours:
                return launcher.do(run, slot, ours)
        finally:
            free.put(slot)

    outcomes: dict[str, str] = {}
    pool = ThreadPoolExecutor(len(slots))
    with sigterm_interrupts(), tqdm(total=len(runs), unit="run", disable=not runs) as bar:
        try:
            futures = {pool.submit(do, run): run.name for run in runs}
            for future in as_completed(futures):
                name = futures[future]
                outcomes[name] = outcome(future.result)
                bar.write(f"{name} {outcomes[name]}")
                bar.update()
        except BaseException:
            launcher.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return outcomes


def outcome(result: Callable[[], str]) -> str:
    """What became of a run, in one line."""
    try:
        return result()
    except (Failed, InputError, OSError) as fault:
        return f"{FAILED}: {fault}"


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def on_slurm(runs: Sequence[Planned], args: argparse.Namespace, k: int, programs: Programs) -> int:
    """Submit a job for each run; returns the exit code."""
    gpus = 0 if args.devices == ["cpu"] else k
    parameters = read_parameters(args.slurm, gpus)
    if args.jobs:
        parameters["array_parallelism"] = args.jobs
    executor = slurm_executor(args.out.resolve() / FOLDER, parameters)
    commands = [job_command(run, args, programs) for run in runs]
    for run, job in zip(runs, submit(executor, commands) if commands else [], strict=True):
        print(f"{run.name}: job {job.job_id}")
    print(f"the same command with --dry_run shows what is left; output of jobs is in {args.out / FOLDER}")
    return 0


def job_command(run: Planned, args: argparse.Namespace, programs: Programs) -> list[str]:
    """The sweep of one run, as a command for another machine that sees the same files."""
    command = [*programs.sweep, str(spec_path(args.spec).resolve()), "--out", str(args.out.resolve())]
    command += ["--only", run.label, "--seeds", str(run.config.train.seed)]
    given = {"--root_dir": args.root_dir, "--screen": args.screen}
    command += [w for flag, at in given.items() if at for w in (flag, os.path.abspath(at))]
    return [*command, *(["--devices", "cpu"] if args.devices == ["cpu"] else [])]
