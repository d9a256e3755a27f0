"""Every parser of what a user hands over: inputs that are nearly right, and what may come out.

The property: a parser returns, or raises InputError with one line, or ends the process with 2. The runs here
go on with what was returned as their callers do, since a value that nobody can use is a fault as well.
"""

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from abra_wilds.board.bundle.archives import read_archive, wrong_ids
from abra_wilds.board.bundle.verify import wrong_names
from abra_wilds.board.sweep.spec import read_spec
from abra_wilds.data.datasets.layouts import TABLES, read_wells
from abra_wilds.data.datasets.metadata import check_discarded, read_metadata
from abra_wilds.data.datasets.splits import SCHEMES, split_array
from abra_wilds.data.reading.packed import FORMAT, INDEX, Pack
from abra_wilds.engine.artifacts.checkpoint import Progress, load_checkpoint, save_checkpoint
from abra_wilds.engine.artifacts.folder import RunFolder
from abra_wilds.engine.artifacts.weights import load_backbone, load_head
from abra_wilds.engine.evaluation.saved import saved_config
from abra_wilds.errors import InputError
from abra_wilds.fetch.unpack import unpack
from abra_wilds.recipes.flags import flags_by_name, parse
from abra_wilds.recipes.resolve import run_config
from abra_wilds.results.files import read_predictions
from abra_wilds.results.records import CONFIG, RESULTS, read_records, results_table
from abra_wilds.results.runs import find_runs, read_entries
from tests.data.datasets.published import tar, zipped
from tests.fuzz.inputs import NUMBERS, WORDS, as_json, as_table, changed, damaged
from tests.fuzz.planes import PLANES
from tests.fuzz.screen_parsers import SCREENS
from tests.helpers import make_method
from tests.results.test_records import FIRST


@dataclass(frozen=True)
class Parser:
    """A parser with its inputs.

    Attributes:
        inputs: a strategy.
        run: parses one of them, with an empty folder at hand.
    """

    inputs: st.SearchStrategy[Any]
    run: Callable[[Any, Path], object]


def outcome(parser: Parser, given: Any) -> str:
    """ "read" or "refused"; anything else that comes out is raised."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        try:
            parser.run(given, Path(folder))
        except InputError as fault:
            assert str(fault) and "\n" not in str(fault).strip(), f"not one line: {fault}"
            return "refused"
        except SystemExit as fault:
            assert fault.code == 2
            return "refused"
    return "read"


@cache
def memory() -> str | None:
    """A folder in memory, where there is one; else that of temporary files."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


HEADER = ("cell_type", "dataset", "experiment", "plate", "well", "site", "well_type", "sirna_id")
ROWS = [
    (line, split, f"{line}-0{k}", 1, f"B0{well}", site, "treatment", well)
    for line in ("HEPG2", "RPE")
    for k, split in enumerate(("train", "train", "test", "test"), start=1)
    for well in range(2)
    for site in (1, 2)
]


def run_metadata(body: bytes, folder: Path) -> None:
    """metadata.csv, and what WILDS' split schemes make of it."""
    path = folder / "metadata.csv"
    path.write_bytes(body)
    check_discarded(read_metadata(path), path)


@st.composite
def marked(draw: Any) -> bytes:
    """A table that is right in itself, with experiments and marks of splits of any kind."""
    experiments = draw(st.lists(st.sampled_from([f"{a}-{k}" for a in "ABé" for k in ("1", "02", "x", "")])))
    marks = st.sampled_from(["train", "val", "test"])
    rows = [
        ("L", draw(marks), name, 1, f"B{k}", draw(st.integers(1, 2)), "", k)
        for k, name in enumerate(experiments)
    ]
    return (
        draw(as_table(HEADER, rows))
        if draw(st.booleans())
        else "\n".join(",".join(map(str, row)) for row in (HEADER, *rows)).encode()
    )


def run_splits(body: bytes, folder: Path) -> None:
    """The splits of a screen by each scheme."""
    path = folder / "metadata.csv"
    path.write_bytes(body)
    rows = read_metadata(path)
    refusals = []
    for scheme in SCHEMES:
        try:
            assert split_array(rows, scheme, path).shape == (len(rows),)
        except InputError as fault:
            refusals.append(fault)
    if refusals:
        raise refusals[0]


WELLS = ("experiment", "plate", "well", "sirna", "well_type")


def run_wells(bodies: list[bytes], folder: Path) -> None:
    """The four tables of the 2019 competition."""
    for name, body in zip(TABLES, bodies, strict=True):
        (folder / name).write_bytes(body)
    read_wells(folder)


@st.composite
def wells(draw: Any) -> list[bytes]:
    """The four tables, one of which is changed."""
    tables = []
    wrong = draw(st.integers(0, 3))
    for k, kind in enumerate(("treatment", "positive_control", "treatment", "negative_control")):
        rows = [(f"RPE-0{k}", 1, f"B0{well}", f"sirna_{well}", kind) for well in range(2)]
        whole = "\n".join(",".join(map(str, row)) for row in (WELLS, *rows)).encode()
        tables.append(draw(as_table(WELLS, rows)) if k == wrong else whole)
    return tables


@st.composite
def ids(draw: Any) -> bytes:
    """A predictions file of three images and five classes, nearly."""
    lines = draw(st.lists(st.one_of(st.integers(0, 4).map(str), WORDS, NUMBERS.map(str)), max_size=4))
    body = "\n".join(lines).encode("utf-8", "replace")
    return draw(damaged(body)) if draw(st.booleans()) and body else body


def run_predictions(body: bytes, folder: Path) -> None:
    """A predictions file as a bundle, and as a report, reads it."""
    path = folder / "pred.csv"
    path.write_bytes(body)
    if wrong_ids(body, 3, 5) is None:
        assert torch.tensor([int(line) for line in body.splitlines()]).shape == (3,)
    assert read_predictions(path).typecode == "q"


@cache
def written() -> dict[str, Any]:
    """A config.json as a run writes it."""
    config = run_config("ERM")
    return {
        "values": json.loads(json.dumps(config.values())),
        "preset": config.preset,
        "origin": dict(config.origin),
        "digest": config.digest(),
        "command": ["run_expt.py"],
        "picked": {},
    }


@cache
def record() -> dict[str, Any]:
    """A record of that run."""
    return json.loads(json.dumps({**asdict(FIRST), "config_sha256": written()["digest"]}))


def run_results(lines: tuple[bytes, ...], folder: Path) -> None:
    """results.jsonl beside a config.json that is right."""
    (folder / CONFIG).write_text(json.dumps(written()))
    (folder / RESULTS).write_bytes(b"\n".join(lines))
    results_table(read_records(folder / RESULTS))
    for run in find_runs(folder):
        for entry in read_entries(run):
            assert entry.epoch and entry.predictions.parent == folder


def run_configuration(body: bytes, folder: Path) -> None:
    """config.json, as tables and as predict read it."""
    (folder / CONFIG).write_bytes(body)
    refusals = []
    for read in (lambda: find_runs(folder)[0].picks, lambda: saved_config(RunFolder(folder, "rxrx1", 0))):
        try:
            read()
        except InputError as fault:
            refusals.append(fault)
    if refusals:
        raise refusals[0]


SPEC = {
    "name": "s",
    "seeds": [0, 1],
    "gpus_per_run": 1,
    "reference": "ERM",
    "settings": {"n_epochs": 2, "loader_kwargs": {"num_workers": 0}},
    "rows": [
        {"label": "ERM", "algorithm": "ERM", "settings": {"lr": 0.1}},
        {"label": "b", "config": "adabn"},
    ],
}


@st.composite
def yaml_text(draw: Any, real: Any) -> bytes:
    """JSON is YAML, so changed JSON; with lines of YAML's own signs before it or damage, now and then."""
    body = json.dumps(draw(changed(real))).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 2)) == 0:
        lines = st.tuples(
            WORDS, st.sampled_from([": ", ":\n  ", ": &a ", ": *a", ": !!set ", ": |\n  "]), WORDS
        )
        body = "\n".join("".join(line) for line in draw(st.lists(lines, max_size=4))).encode()
    return draw(damaged(body)) if body and draw(st.integers(0, 3)) == 0 else body


def run_spec(body: bytes, folder: Path) -> None:
    """A sweep's file."""
    path = folder / "spec.yaml"
    path.write_bytes(body)
    for row in read_spec(path).rows:
        assert "/" not in row.folder and all(isinstance(word, str) for word in row.words)


SETTINGS = {"n_epochs": 2, "lr": 0.1, "pretrained": False, "loader_kwargs": {"num_workers": 1}}


def run_recipe(body: bytes, folder: Path) -> None:
    """A file of --config."""
    path = folder / "c.yaml"
    path.write_bytes(body)
    parse(["--algorithm", "ERM", "--config", str(path)]).digest()


@st.composite
def words(draw: Any) -> list[str]:
    """A command line: flags that exist, values of every kind."""
    flag = st.sampled_from(sorted(flags_by_name())).map(lambda name: f"--{name}")
    pair = st.tuples(st.sampled_from(["num_workers", "a", ""]), WORDS).map("=".join)
    value = st.one_of(WORDS, NUMBERS.map(str), pair, st.sampled_from(["true", "false", "none", "1", "0.5"]))
    said = draw(st.lists(st.one_of(st.tuples(flag, value), st.tuples(flag), st.tuples(value)), max_size=4))
    algorithm = draw(st.sampled_from([["--algorithm", "ERM"], ["--algorithm", "ABRA"], ["--algorithm"], []]))
    return [*algorithm, *(word for part in said for word in part)]


def run_flags(argv: list[str], folder: Path) -> None:
    """A command line of training."""
    config = parse([word for word in argv if word not in ("--help", "-h")])
    json.dumps(config.digest())


@cache
def checkpoints() -> tuple[bytes, ...]:
    """Real checkpoints: with an optimiser, of an older version of torch's format, and weights alone."""
    method = make_method("ERM")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.pth"
        save_checkpoint(path, method, Progress(3, 0.5, 1), torch.optim.Adam(method.parameters()))
        whole = path.read_bytes()
    old, weights = io.BytesIO(), io.BytesIO()
    state = {"algorithm": method.state_dict(), **asdict(Progress(3, 0.5, 1))}
    torch.save(state, old, _use_new_zipfile_serialization=False)
    torch.save(method.state_dict(), weights)
    return whole, old.getvalue(), weights.getvalue()


@st.composite
def states(draw: Any) -> bytes:
    """A checkpoint that can be loaded, with other content."""
    out = io.BytesIO()
    torch.save(draw(changed(torch.load(io.BytesIO(checkpoints()[0]), weights_only=True))), out)
    return out.getvalue()


def run_checkpoint(body: bytes, folder: Path) -> None:
    """A checkpoint, to resume from and to start from."""
    path = folder / "c.pth"
    path.write_bytes(body)
    method = make_method("ERM")
    refusals = []
    for read in (
        lambda: load_checkpoint(path, method, torch.optim.Adam(method.parameters())),
        lambda: load_head(path, load_backbone(path, method.net)[0], method),
    ):
        try:
            read()
        except InputError as fault:
            refusals.append(fault)
    if refusals:
        raise refusals[0]


MEMBERS = {"rxrx1/a.csv": b"1\n2\n", "README.md": b"text", "d/e/f.bin": bytes(range(200))}


@st.composite
def packed(draw: Any) -> tuple[str, bytes]:
    """An archive with members of odd names, damaged now and then."""
    name = st.one_of(
        WORDS, st.lists(st.sampled_from(["..", "a", "", ".", "C:", "é"]), max_size=4).map("/".join)
    )
    members = {**MEMBERS, **draw(st.dictionaries(name, st.binary(max_size=20), max_size=2))}
    ending, pack = draw(
        st.sampled_from([(".tar.gz", tar), (".tar", lambda files: tar(files, "w")), (".zip", zipped)])
    )
    try:
        body = pack(members)
    except (ValueError, LookupError):  # a name that no archive holds
        body = pack(MEMBERS)
    return f"x{ending}", draw(damaged(body)) if draw(st.booleans()) else body


def run_archive(given: tuple[str, bytes], folder: Path) -> None:
    """An archive of a data set, unpacked; and as one of predictions, read."""
    name, body = given
    path = folder / "in" / name
    path.parent.mkdir()
    path.write_bytes(body)
    refusals = []
    for read in (
        lambda: unpack(name, [path], folder / "in" / "out"),
        lambda: list(wrong_names(read_archive(path))),
    ):
        try:
            read()
        except InputError as fault:
            refusals.append(fault)
    assert {p.name for p in folder.iterdir()} == {"in"}, "a member lies outside"
    assert {p.name for p in path.parent.iterdir()} <= {name, "out"}, "a member lies outside"
    if refusals:
        raise refusals[0]


PACKED = {
    "format": FORMAT,
    "shape": [1, 2, 2],
    "suffixes": [""],
    "files": [
        {"name": "a.npy", "bytes": 136, "sha256": "0" * 64, "stems": ["x/1.png", "x/2.png"], "crc32": [1, 2]}
        | {"sizes": [3, 4], "times": [5, 6]}
    ],
    "tables": {"metadata.csv": "0" * 64},
}


def run_index(body: bytes, folder: Path) -> None:
    """The index of a pack, and its first image."""
    np.save(folder / "a.npy", np.zeros((2, 1, 2, 2), dtype=np.uint8))
    (folder / INDEX).write_bytes(body)
    pack = Pack.open(folder)
    pack.read("x/1.png")
    pack.crc32("x/2.png")


PARSERS = {
    "metadata": Parser(as_table(HEADER, ROWS), run_metadata),
    "splits": Parser(marked(), run_splits),
    "competition tables": Parser(wells(), run_wells),
    "predictions": Parser(ids(), run_predictions),
    "results.jsonl": Parser(
        st.deferred(lambda: st.tuples(as_json(record()), as_json(record()))), run_results
    ),
    "config.json": Parser(st.deferred(lambda: as_json(written())), run_configuration),
    "sweep": Parser(yaml_text(SPEC), run_spec),
    "recipe": Parser(yaml_text(SETTINGS), run_recipe),
    "command line": Parser(words(), run_flags),
    "checkpoint": Parser(
        st.one_of(states(), *(st.deferred(lambda k=k: damaged(checkpoints()[k])) for k in range(3))),
        run_checkpoint,
    ),
    "archive": Parser(packed(), run_archive),
    "pack index": Parser(as_json(PACKED), run_index),
    **{name: Parser(*pair) for name, pair in (PLANES | SCREENS).items()},
}
