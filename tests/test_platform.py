"""Other systems than this one: no Unix modules, no UTF-8, `~` and variables in paths, other devices."""

from __future__ import annotations

import ast
import contextlib
import os
import pkgutil
from argparse import _SubParsersAction
from dataclasses import fields
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml

import abra_wilds
from abra_wilds.__main__ import JOBS, make_parser
from abra_wilds.config.fields import Flag, expanded, flag_of, path, typed
from abra_wilds.config.precision import SpeedConfig
from abra_wilds.config.run import SECTIONS
from abra_wilds.engine.device import pick_device
from abra_wilds.engine.precision import check_speed, make_scaler
from abra_wilds.engine.step import explain_out_of_memory
from abra_wilds.errors import InputError, RunAborted
from abra_wilds.functional.ssl import block_masks
from abra_wilds.recipes.flags import parse
from abra_wilds.recipes.resolve import run_config
from tests import runs
from tests.data.screens import own_screen

# What Windows' Python does not have.
WITHOUT_UNIX = """
import os, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "termios", "pwd", "grp"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
del os.sched_getaffinity
"""
NAMES = [
    m.name for m in pkgutil.walk_packages(abra_wilds.__path__, "abra_wilds.") if "__main__" not in m.name
]


def without_unix(program, *words, **more):
    """A finished process in which a program ran without them."""
    return runs.process("-c", f"{WITHOUT_UNIX}\n{program}", *words, **more)


def test_every_module_is_imported_without_what_unix_alone_has():
    done = without_unix(f"import importlib\nfor name in {NAMES}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_commands_run_without_what_unix_alone_has(tmp_path):
    own_screen(tmp_path / "root", {"A-1": "train", "A-2": "test"})
    spec = {"name": "one", "seeds": [0], "settings": {}, "rows": [{"label": "ERM", "algorithm": "ERM"}]}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    run = "from abra_wilds.__main__ import main\nsys.exit(main())"
    for words in (
        ("pack", tmp_path / "root", "--workers", "1"),
        ("validate", tmp_path / "root", "--workers", "1"),
        ("sweep", tmp_path / "spec.yaml", "--out", tmp_path / "RUNS", "--dry_run"),
    ):
        done = without_unix(run, *words)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "root" / "rxrx1" / "packed" / "index.json").is_file()


@pytest.mark.parametrize("text", ["~/a", "$HOME/a", "${HOME}/a", "$ABRA_A"])
def test_a_path_is_expanded_in_flags_files_and_from_python(monkeypatch, tmp_path, text):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ABRA_A", str(tmp_path / "a"))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"log_dir": text, "pretrained_model_path": text}))
    named = parse(["--algorithm", "ERM", "--config", "~/c.yaml", f"--root_dir={text}"])
    python = run_config("ERM", root_dir=text, log_dir=text, pretrained_model_path=text)
    for config in (named, python):
        found = config.data.root_dir, config.train.log_dir, config.model.pretrained_model_path
        assert found == (str(tmp_path / "a"),) * 3
    monkeypatch.setenv("WILDS_DATA", text)
    assert parse(["--algorithm", "ERM"]).data.root_dir == str(tmp_path / "a")


def test_a_variable_that_is_not_set_is_refused_unless_a_file_is_called_so(monkeypatch, tmp_path):
    monkeypatch.delenv("ABRA_A", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--log_dir \$ABRA_A/run has \$ABRA_A"):
        run_config("ERM", log_dir="$ABRA_A/run")
    (tmp_path / "$ABRA_A").mkdir()
    assert expanded("$ABRA_A") == "$ABRA_A"


def test_every_option_that_is_a_path_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = {f.name: flag_of(f) for section in SECTIONS.values() for f in fields(section)}
    paths = {name for name, flag in options.items() if flag.path}
    called = {name for name in options if name.endswith(("_dir", "_path"))}
    assert paths == called | {"screen", "platemap", "qc"} and len(paths) == 6
    assert typed("x", "~", Flag("", str, path=True)) == str(tmp_path)
    assert typed("x", "~", Flag("", str)) == "~"


PLACES = (
    "ROOT",
    "FOLDER",
    "FILE",
    "RUNS",
    "ARCHIVE",
    "CHECKPOINT",
    "CHECKOUT",
    "SPEC",
    "OUT",
    "TABLE_OR_FOLDER",
)


@pytest.mark.parametrize("job", [job for job in JOBS if job != "train"])
def test_every_argument_of_a_command_that_is_a_path_is_expanded(job, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    jobs = next(a for a in make_parser(job)._actions if isinstance(a, _SubParsersAction))
    own = jobs.choices[job]._actions
    parts = [part for a in own if isinstance(a, _SubParsersAction) for part in a.choices.values()]
    places = [a for a in [*own, *(a for part in parts for a in part._actions)] if a.metavar in PLACES]
    assert [a.dest for a in places if a.type is not path] == [] and places
    assert places[0].type("~/x") == tmp_path / "x"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_text_that_the_terminal_cannot_show_ends_no_command(root, tmp_path, encoding):
    folder = tmp_path / "Läufe ⊕"
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = runs.process(
        "-m", "tests.runs", *runs.command(root, folder, "ERM", n_epochs=1), env=env, encoding=encoding
    )
    assert done.returncode == 0, done.stderr
    assert "\\u2295" in done.stdout and "Läufe ⊕" in (folder / "log.txt").read_text(encoding="utf-8")


def test_a_path_that_is_no_text_ends_no_run(root, tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/run\xff")
    done = runs.process("-m", "tests.runs", *runs.command(root, folder, "ERM", n_epochs=1))
    assert done.returncode == 0, done.stderr
    assert r"run\udcff" in Path(folder, "log.txt").read_text(encoding="utf-8")


def test_text_files_are_opened_by_their_encoding_and_not_by_the_systems():
    found = []
    for file in (runs.REPOSITORY / "abra_wilds").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            given = {keyword.arg for keyword in node.keywords}
            modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            text = name == "open" and isinstance(node.func, ast.Name) and not any("b" in m for m in modes)
            text |= name == "open" and modes == [] and "newline" in given
            text |= name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute)
            found += [(file.name, node.lineno)] * (text and "encoding" not in given)
    assert found == []


MACHINES = {
    "none": (False, False),
    "cuda": (True, False),
    "mps": (False, True),
    "both": (True, True),
}
DEVICES = {
    "auto": {"none": "cpu", "cuda": "cuda:0", "mps": "mps", "both": "cuda:0"},
    "cpu": dict.fromkeys(MACHINES, "cpu"),
    "0": {"none": "cpu", "cuda": "cuda:0", "mps": "cpu", "both": "cuda:0"},
    "1": {"none": "cpu", "cuda": "cuda:1", "mps": "cpu", "both": "cuda:1"},
    "cuda": {"none": None, "cuda": "cuda:0", "mps": None, "both": "cuda:0"},
    "cuda:1": {"none": None, "cuda": "cuda:1", "mps": None, "both": "cuda:1"},
    "cuda:2": dict.fromkeys(MACHINES),
    "mps": {"none": None, "cuda": None, "mps": "mps", "both": "mps"},
}


@pytest.mark.parametrize(("name", "machine"), list(product(DEVICES, MACHINES)))
def test_a_device_is_the_one_that_is_named_or_the_best_there_is(monkeypatch, name, machine):
    cuda, mps = MACHINES[machine]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * cuda)
    monkeypatch.setattr(torch.cuda, "set_device", lambda k: None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert run_config("ERM", device=name).train.device == (name,)
    if DEVICES[name][machine] is None:
        with pytest.raises(InputError, match=f"--device {name} "):
            pick_device(name)
    else:
        assert str(pick_device(name)) == DEVICES[name][machine]


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "-1", "cuda0", "MPS"])
def test_a_device_of_no_kind_is_refused(name):
    with pytest.raises(InputError, match=r"--device must be .*mps"):
        run_config("ERM", device=name)


def test_precision_on_an_apple_gpu_is_what_that_has(monkeypatch):
    mps = torch.device("mps")
    with pytest.raises(InputError, match="--amp fp16 needs a CUDA"):
        check_speed(SpeedConfig(amp="fp16"), mps)
    for new in (False, True):
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version, new=new: new)
        with contextlib.nullcontext() if new else pytest.raises(InputError, match=r"--amp bf16 .*macOS"):
            check_speed(SpeedConfig(amp="bf16"), mps)
    assert not make_scaler(SpeedConfig(), mps).is_enabled()
    assert block_masks(2, (4, 4), 1.0, (0.2, 0.5), torch.device("cpu"))[2].dtype == torch.float64


def test_memory_that_runs_out_on_an_apple_gpu_is_one_sentence():
    with pytest.raises(RunAborted, match="--batch_size"), explain_out_of_memory():
        raise RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)")
    with pytest.raises(RuntimeError, match="something else"), explain_out_of_memory():
        raise RuntimeError("something else")
