"""The jobs of the storm, what they need, and what each leaves."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from abra_wilds.config.data import MARKER
from abra_wilds.simulate import SimulationConfig, simulate

SCREEN = SimulationConfig(
    classes=12,
    image_size=32,
    replicates=1,
    train_experiments=(1, 1, 0, 0),
    val_experiments=(1, 0, 0, 0),
    test_experiments=(0, 1, 0, 0),
)
# The large one's checkpoints take long to write, so that a kill meets one; the small one makes kills cheap.
LARGE, SMALL = ("--model", "resnet18", "--n_epochs", "2"), ("--model", "timm:test_resnet", "--n_epochs", "3")
RUN = (
    "--pretrained false --batch_size 8 --warmup_epochs 0 --device cpu --preset wilds "
    "--loader_kwargs num_workers=0"
)
EXAMPLES = Path(__file__).resolve().parents[2]
# What differs between two runs of one command: times, checksums of files that hold them, and commits.
TIMES = ("seconds", "wall_s", "commit", "checkpoint_sha256")
RATE = 3e6  # bytes a second of the server, so that a kill meets a download
COPIES = 10  # of every image in what is fetched, so that a kill meets its unpacking


@dataclass(frozen=True)
class Job:
    """A command that is killed.

    Attributes:
        name: in the result.
        command: its words.
        out: the folder that it fills.
        facts: what of that folder must come out alike.
        at_once: whether all of that comes into being together.
    """

    name: str
    command: list[str]
    out: Path
    facts: Callable[[Path], dict[str, Any]]
    at_once: bool = False


def jobs(folder: Path, place: str, source: str) -> list[Job]:
    """Every job, working in folder / place; source is the address of the archive to fetch."""
    here, root = folder / place, folder / "screen"
    own = here / "screen"  # packing writes beside the images, so each has its own
    sweep = [sys.executable, str(EXAMPLES.parent / "leaderboard" / "sweep.py"), str(folder / "storm.yaml")]
    sweep += ["--devices", "cpu", "--out", str(here / "sweep"), "--root_dir", str(root)]
    tools = [sys.executable, "-m", "abra_wilds"]
    archive = here / "bundle" / "row.tar.gz"
    fetch = [*tools, "fetch", "rxrx1", str(here / "fetch"), "--source", source]
    bundle = [*tools, "bundle", str(folder / "runs"), "--out", str(archive)]
    runs = {
        name: train(root, here / name, "--algorithm", name, *size)
        for name, size in {"ERM": LARGE, "ABRA": SMALL}.items()
    }
    return [
        *(Job(name, command, here / name, run_facts) for name, command in runs.items()),
        Job("pack", [*tools, "pack", str(own), "--workers", "1"], own, pack_facts),
        Job("sweep", sweep, here / "sweep", tree_facts),
        Job("fetch", fetch, here / "fetch", file_facts, at_once=True),
        Job("bundle", bundle, archive.parent, file_facts, at_once=True),
    ]


def train(root: Path, log_dir: Path, *flags: str) -> list[str]:
    """The command of a run that goes on where it was killed."""
    command = [sys.executable, str(EXAMPLES / "run_expt.py"), "--dataset", "rxrx1", "--root_dir", str(root)]
    return [*command, "--log_dir", str(log_dir), "--resume", *RUN.split(), *flags]


def prepare(folder: Path, place: str) -> None:
    """What the jobs of a place need."""
    shutil.rmtree(folder / place, ignore_errors=True)
    (folder / place / "bundle").mkdir(parents=True)
    shutil.copytree(folder / "screen", folder / place / "screen")


def begin(folder: Path) -> None:
    """What every place shares: a screen, a sweep's file, and runs to bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "storm.yaml").write_text(SPEC)
    if not (folder / "screen").exists():
        simulate(folder / "screen", SCREEN, workers=2)
    for seed in "012":
        flags = ("--algorithm", "ERM", *SMALL, "--seed", seed)
        subprocess.run(
            train(folder / "screen", folder / "runs" / seed, *flags), check=True, capture_output=True
        )


@contextmanager
def served(screen: Path) -> Iterator[str]:
    """The address of a slow server on the loopback, which has a screen as an archive; inside the block."""
    os.environ["no_proxy"] = "127.0.0.1"
    body = archived(screen)
    sums = f"{hashlib.sha256(body).hexdigest()}  rxrx1.tar.gz\n".encode()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files = {"/rxrx1.tar.gz": body, "/SHA256SUMS": sums}  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def archived(screen: Path) -> bytes:
    """A screen as it would be published, without the mark of a simulated one; every image several times."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path in sorted(p for p in screen.rglob("*") if p.is_file() and p.name != MARKER):
            name = path.relative_to(screen)
            for copy in range(COPIES if path.suffix == ".png" else 1):
                tar.add(path, str(name.with_stem(f"{name.stem}_{copy}") if copy else name))
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Sends the files of its server slowly, from the byte that is asked for."""

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        """The same as for GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """A file, or what is left of it."""
        body: bytes = self.server.files[self.path]  # type: ignore[attr-defined]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        with suppress(OSError):  # whoever asked may have been killed
            for at in range(start, len(body) if self.command == "GET" else 0, 1 << 15):
                self.wfile.write(body[at : at + (1 << 15)])
                time.sleep((1 << 15) / RATE)


def run_facts(folder: Path) -> dict[str, Any]:
    """Of a run: its weights, predictions, csv files and records, without times."""
    facts: dict[str, Any] = {}
    for path in sorted(folder.glob("*_model.pth")):
        state = torch.load(path, map_location="cpu", weights_only=True)
        facts[path.name] = digest(state)
    for path in sorted(folder.glob("*.csv")):
        facts[path.name] = path.read_text()
    facts["results"] = [without_times(json.loads(line)) for line in lines(folder / "results.jsonl")]
    return facts


def pack_facts(folder: Path) -> dict[str, Any]:
    """Of a pack: every array."""
    packs = sorted(path for path in folder.rglob("*.npy") if not path.name.startswith("."))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in packs}


def file_facts(folder: Path) -> dict[str, Any]:
    """Of a data set or an archive: every file that is not hidden or in a hidden folder."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        str(name): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def tree_facts(folder: Path) -> dict[str, Any]:
    """Of a sweep: the facts of every run and adaptation."""
    return {
        str(p.parent.relative_to(folder)): run_facts(p.parent) for p in sorted(folder.rglob("results.jsonl"))
    }


def without_times(record: Any) -> Any:
    """A record without what no two runs share, inside it too."""
    if not isinstance(record, dict):
        return record
    return {k: without_times(v) for k, v in record.items() if k not in TIMES}


def digest(value: Any) -> str:
    """Of a nest of mappings, sequences, tensors and numbers, without times."""
    found = hashlib.sha256()

    def add(item: Any) -> None:
        if isinstance(item, dict):
            for key, each in item.items():
                if key not in TIMES:
                    found.update(str(key).encode())
                    add(each)
        elif isinstance(item, list | tuple):
            for each in item:
                add(each)
        elif isinstance(item, torch.Tensor):
            found.update(item.numpy().tobytes())
        else:
            found.update(repr(item).encode())

    add(value)
    return found.hexdigest()


def lines(path: Path) -> Iterator[str]:
    """Lines of a text file; none where there is no file."""
    return iter(path.read_text(encoding="utf-8").splitlines() if path.exists() else ())


SPEC = """name: storm
seeds: [0]
reference: ERM
settings: {dataset: rxrx1, preset: wilds, model: 'timm:test_resnet', pretrained: false, batch_size: 8,
  n_epochs: 2, warmup_epochs: 0, loader_kwargs: {num_workers: 0}}
rows:
  - {label: ERM, algorithm: ERM, tta: [{tta: plate_bn, tta_group: experiment, tta_min: 2}]}
"""
