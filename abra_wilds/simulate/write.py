"""Write a simulated screen: pictures in parallel into a hidden sibling folder, renamed once it is whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from abra_wilds.config.data import MARKER
from abra_wilds.pools import check_workers, each
from abra_wilds.simulate.config import SimulationConfig, refuse_request
from abra_wilds.simulate.design import metadata_table, wells_table
from abra_wilds.simulate.formats import FORMATS, Place, folder_of
from abra_wilds.simulate.picture import Well, site_picture

# Raise it with every change that alters a byte of the pictures or of the tables.
GENERATOR_VERSION = "1.0"
_WELLS_PER_TASK = 16
_BYTES_PER_VALUE = 0.75  # of a PNG, per pixel and stain; measured 0.45 to 0.7

Screen = tuple[Path, SimulationConfig, str]  # its folder, its settings, and one of FORMATS
WellsOfPlate = tuple[str, int, list[tuple[Well, str]]]  # experiment, plate, and wells with their names


def simulate(
    root: str | Path,
    config: SimulationConfig,
    *,
    write: str = "rxrx",
    workers: int = 1,
    progress: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a screen below `root`, which then serves as WILDS' --root_dir.

    Args:
        root: folder to write into; made if absent.
        config: of the screen; the same one gives the same bytes, whatever `workers` is.
        write: one of `formats.FORMATS`: how the same pictures lie on disk.
        workers: processes that render.
        progress: whether to show a bar when standard error is a terminal.
        overwrite: whether a data set that this function wrote earlier may be replaced.

    Returns:
        root/rxrx1_v1.0, root/rxrx1, or root with the format's name.

    Raises:
        InputError: workers < 1, a target in the way, a root that cannot be written, a full disk, or a worker
            that was killed.
    """
    root = Path(root)
    check_workers(workers)
    target = root / folder_of(write, config)
    _check_target(target, overwrite)
    table = metadata_table(config)
    partial = _make_partial(root, target.name)
    try:
        _check_disk(root, len(table), config)
        _write_pictures((partial, config, write), workers, progress)
        _write_tables(partial, table, config, write)
        _put_in_place(partial, target)
    except OSError as error:
        refuse_request(f"writing {target} failed ({error.strerror}); free some disk or choose another ROOT")
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already if all went well
    return target


def ensure(root: Path, config: SimulationConfig, workers: int = 1) -> None:
    """Simulate a screen below `root` unless it is there.

    Raises:
        InputError: if another one is, or as `simulate`.
    """
    marker = root / folder_of("rxrx", config) / MARKER
    if not marker.exists():
        simulate(root, config, workers=workers, progress=True)
    # Markers do not name a depth of 8 bits, which was the only one once.
    there = {"depth": 8, **json.loads(marker.read_text(encoding="utf-8"))}
    wanted = json.loads(json.dumps(asdict(config)))
    if {name: there.get(name) for name in wanted} != wanted:
        refuse_request(f"{marker.parent} is another screen; give another folder")


def _check_target(target: Path, overwrite: bool) -> None:
    """Refuse to write over anything; with `overwrite`, over anything but a simulated screen."""
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir() or target.is_symlink():
        refuse_request(f"{target} is in the way and not a plain folder; remove it or choose another ROOT")
    if not any(target.iterdir()):
        return
    if not overwrite:
        refuse_request(f"{target} is not empty; add --overwrite to replace it or choose another ROOT")
    if not (target / MARKER).is_file():
        refuse_request(
            f"{target} has no {MARKER}, so it may be real data and is not overwritten; choose another ROOT"
        )


def _make_partial(root: Path, name: str) -> Path:
    """Make the hidden folder in which the data set grows, on the same disk as its final place."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}.partial-", dir=root))
    except OSError as error:
        refuse_request(f"ROOT {root} cannot be written ({error.strerror}); choose a folder that can")
    partial.chmod(0o755)  # mkdtemp gives 0o700, which would hide the data set from colleagues
    return partial


def _check_disk(root: Path, rows: int, config: SimulationConfig) -> None:
    """Refuse to start what will not fit."""
    need = rows * config.image_size**2 * len(config.stains) * _BYTES_PER_VALUE * config.depth / 8
    free = shutil.disk_usage(root).free
    if need > free:
        refuse_request(
            f"the pictures need about {need / 1e9:.1f} GB and {root} has {free / 1e9:.1f} GB free; "
            f"free some space, choose another ROOT or lower --image_size"
        )


def _tasks(config: SimulationConfig) -> Iterator[WellsOfPlate]:
    """Cut the screen into pieces of one plate each, small enough for a lively progress bar."""
    for (experiment, plate), rows in wells_table(config).groupby(["experiment", "plate"], sort=False):
        fields = zip(*(rows[name].tolist() for name in Well._fields), strict=True)
        wells = [(Well(*values), name) for values, name in zip(fields, rows["well"], strict=True)]
        for start in range(0, len(wells), _WELLS_PER_TASK):
            yield experiment, plate, wells[start : start + _WELLS_PER_TASK]


def write_wells(screen: Screen, task: WellsOfPlate) -> None:
    """Render and write a few wells of a plate."""
    (folder, config, write), (experiment, plate, wells) = screen, task
    for well, name in wells:
        for site in range(1, config.sites + 1):
            picture = site_picture(config, well, site)
            FORMATS[write].write_site(folder, Place(experiment, plate, name, site), picture, config)


def _write_pictures(screen: Screen, workers: int, progress: bool) -> None:
    """Render every task, in this process or in several."""
    config = screen[1]
    written = each(
        write_wells,
        screen,
        list(_tasks(config)),
        workers=workers,
        n_images=lambda task: len(task[2]) * config.sites,
        desc="simulate",
        quiet=not progress,
    )
    for _ in written:
        pass


def _write_tables(partial: Path, table: pd.DataFrame, config: SimulationConfig, write: str = "rxrx") -> None:
    """Write what says that the screen was simulated, and then what makes its folder a data set."""
    # The generator's first name: what stands here is part of the digest of a data set. So no depth of 8 does.
    made = {"generator": "abra_wilds.data.simulate", "generator_version": GENERATOR_VERSION, **asdict(config)}
    if config.depth == 8:
        del made["depth"]
    (partial / MARKER).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    FORMATS[write].write_tables(partial, table, config)


def _put_in_place(partial: Path, target: Path) -> None:
    """Rename the finished folder to its name, setting an older one aside until that has worked."""
    if not target.exists():
        partial.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    target.rename(aside / target.name)
    try:
        partial.rename(target)
    except OSError:
        (aside / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
