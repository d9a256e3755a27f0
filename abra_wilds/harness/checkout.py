"""A checkout of WILDS' repository, found by its files and never written to."""

from __future__ import annotations

import ast
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from abra_wilds.errors import InputError

VERSION_FILE = "wilds/version.py"
# What is taken hold of, besides the script itself.
NEEDED = (
    VERSION_FILE,
    "examples/run_expt.py",
    "examples/train.py",
    "examples/utils.py",
    "examples/transforms.py",
    "examples/losses.py",
    "examples/algorithms/initializer.py",
    "examples/algorithms/single_model_algorithm.py",
    "examples/configs/supported.py",
    "examples/configs/datasets.py",
)


@dataclass(frozen=True)
class Checkout:
    """A folder that holds WILDS 2.0's repository.

    Attributes:
        path: the folder.
        version: what its `wilds/version.py` says.
    """

    path: Path
    version: str

    @property
    def examples(self) -> Path:
        """The folder of its scripts, which import each other by bare names."""
        return self.path / "examples"

    def modules(self) -> frozenset[str]:
        """The bare names under which its scripts import each other."""
        files = {p.stem for p in self.examples.glob("*.py") if p.stem != "__init__"}
        return frozenset(files | {p.name for p in self.examples.iterdir() if any(p.glob("*.py"))})

    def flags(self) -> frozenset[str]:
        """The flags of its run_expt.py, without dashes, as its source adds them to its parser."""
        tree = ast.parse((self.examples / "run_expt.py").read_text(encoding="utf-8"))
        names = [
            argument.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "add_argument"
            for argument in node.args
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
        return frozenset(name.removeprefix("--") for name in names if name.startswith("--"))

    def commit(self) -> str:
        """The commit that is checked out, or "unknown" for a folder that is no clone of its own."""
        command = ["git", "-C", str(self.path), "rev-parse", "--show-toplevel", "HEAD"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
        top, head = done.stdout.splitlines()
        return head if Path(top).resolve() == self.path else "unknown"

    def __str__(self) -> str:
        return f"WILDS {self.version} in {self.path}, commit {self.commit()[:12]}"


def find_checkout(path: str | Path) -> Checkout:
    """The checkout in a folder.

    Raises:
        InputError: if it is none, or not of the 2.0 line.
    """
    path = Path(path).resolve()
    missing = [name for name in NEEDED if not (path / name).is_file()]
    if missing:
        raise InputError(
            f"{path} is no checkout of WILDS: it has no {missing[0]}; "
            "give the folder that `git clone https://github.com/p-lambda/wilds` made"
        )
    found = re.search(r"__version__\s*=\s*['\"]([\w.]+)", (path / VERSION_FILE).read_text(encoding="utf-8"))
    version = found.group(1) if found else "of unknown version"
    if not re.match(r"2\.0(\.|$)", version):
        raise InputError(
            f"{path} is WILDS {version}, and its 2.0 line is supported; check out v2.0.0 or later"
        )
    return Checkout(path, version)
