"""abra_wilds/board/extra.py: figures and reports alone need matplotlib and jinja2, and say so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from abra_wilds.__main__ import main
from abra_wilds.board.extra import BOARD_PACKAGES
from tests import runs
from tests.test_layers import MODULES, ROOT, imported

DRAWING = {
    *(f"abra_wilds.board.figures.{name}" for name in ("build", "drawings", "label_shifts", "style")),
    *(f"abra_wilds.board.report.{name}" for name in ("answers", "curves", "page", "quality")),
}
IMPORT_REST = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({BOARD_PACKAGES!r}))
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


NAMED = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in MODULES}


def needing(names):
    """Modules that import any of these or of what is in them, also inside functions."""
    starts = tuple(f"{name}." for name in names)
    return {name for name, p in NAMED.items() if any(f"{n}.".startswith(starts) for n in imported(p))}


def test_matplotlib_and_jinja2_are_imported_by_what_draws_and_that_by_four_commands():
    assert needing(BOARD_PACKAGES) <= DRAWING
    commands = {
        f"abra_wilds.commands.{name}" for name in ("board.figures", "board.report", "data.qc", "predict")
    }
    assert needing(DRAWING) - DRAWING == commands


def test_everything_else_is_imported_without_them():
    command = [sys.executable, "-c", IMPORT_REST, *sorted(NAMED.keys() - DRAWING)]
    done = subprocess.run(command, cwd=runs.REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", BOARD_PACKAGES)
@pytest.mark.parametrize("job", ["figures", "report"])
def test_the_commands_say_how_to_install_them(five, tmp_path, monkeypatch, capsys, job, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert main([job, str(five), "--out", str(tmp_path / "out")]) == 2
    runs.assert_says(capsys.readouterr().err, package, "pip install 'abra-wilds[board]'")
