"""Pages that mkdocs makes of READMEs, a notebook, the table of methods and the configuration's fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import abra_wilds
from abra_wilds import METHODS
from abra_wilds.config.fields import Flag, Options, default_of, flag_name, flag_of
from abra_wilds.config.run import SECTIONS

ROOT = Path(__file__).resolve().parents[1]
# Page -> the file in the tree whose text it is.
ELSEWHERE = {
    "leaderboard.md": "leaderboard/README.md",
    "checkout.md": "abra_wilds/harness/README.md",
    "methods/index.md": "abra_wilds/methods/README.md",
    "architecture.md": "ARCHITECTURE.md",
    "tour.md": "examples/tour.ipynb",
}
TITLES = {
    "data": "Images and batches",
    "screen": "Any screen",
    "model": "Network",
    "optim": "Optimisation",
    "eval": "Evaluation and adaptation",
    "train": "The run",
    "speed": "Precision and speed",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    pages = {name: text_of(ROOT / source) for name, source in ELSEWHERE.items()}
    pages["methods/index.md"] += "\n## Options\n\n" + "".join(
        f"- [{name}]({slug(name)}.md)\n" for name in METHODS
    )
    pages |= {f"methods/{slug(name)}.md": method_page(name) for name in METHODS}
    pages |= {"reference/configuration.md": configuration(), "reference/api.md": api()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def text_of(path: Path) -> str:
    """The text of a file, of a notebook as a page of its cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    parts = [f"```python\n{source}\n```" if kind == "code" else source for kind, source in cells]
    return "\n\n".join(parts).replace("](../docs/", "](") + "\n"


def slug(name: str) -> str:
    """The name of a method's page."""
    return name.lower()


def method_page(name: str) -> str:
    """A method: its paragraph of the methods' README, where its file is, its flags."""
    readme = (ROOT / ELSEWHERE["methods/index.md"]).read_text(encoding="utf-8")
    paragraph = re.search(rf"^\*\*{re.escape(name)}\*\*.*?(?=\n\n)", readme, re.MULTILINE | re.DOTALL)
    if paragraph is None:
        raise ValueError(f"the methods' README has no paragraph that begins with **{name}**; write one")
    method = METHODS[name]
    module = method.__module__.replace(".", "/")
    options = table(method.Config) or "None of its own.\n"
    plan = method.plan
    batches = f"`--train_loader {plan.train_loader}`, bio-batches by {' and '.join(plan.groupby_fields)}"
    return (
        f"# {name}\n\n{paragraph[0]}\n\nSource: `{module}.py`. Batches by default: {batches}; preset "
        f"`{method.preset}`.\n\n## Options\n\n{options}"
    )


def configuration() -> str:
    """Every flag of the main command, by section."""
    parts = [
        "# Configuration\n\nThe flags of `abra-wilds train` and of `examples/run_expt.py`, made from "
        "the fields of the configuration. Flags of single methods stand on their pages.\n"
    ]
    parts += [f"## {TITLES[name]}\n\n{table(kind)}" for name, kind in SECTIONS.items()]
    return "\n".join(parts)


def table(kind: type[Options]) -> str:
    """The fields of a part of the configuration; nothing where there are none."""
    rows = list(rows_of(kind))
    head = "| flag | default | what it is |\n|---|---|---|\n"
    return head + "\n".join(rows) + "\n" if rows else ""


def rows_of(kind: type[Options]) -> Iterator[str]:
    """A row for each field."""
    for f in fields(kind):  # type: ignore[arg-type]
        default = default_of(f)
        shown = "unset" if default is None or default == () else f"`{written(default)}`"
        yield f"| `--{flag_name(kind, f)}` | {shown} | {described(flag_of(f))} |"


def written(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def described(flag: Flag) -> str:
    """A flag's sentence, with what it may be."""
    allowed = "" if flag.choices is None else f" One of {', '.join(f'`{c}`' for c in flag.choices)}."
    return flag.help.replace("|", "\\|").rstrip(".") + "." + allowed


def api() -> str:
    """The public names."""
    parts = ["# API\n\nWhat `from abra_wilds import ...` gives.\n"]
    homes = abra_wilds._HOMES
    parts += [
        f"::: {homes[name]}.{name}\n" for name in abra_wilds.__all__ if name in homes and name != "METHODS"
    ]
    return "\n".join(parts)
