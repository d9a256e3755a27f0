"""`abra-wilds screen init`: write the settings of a screen beside it, from what it holds."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from abra_wilds.commands.data.pack import add_screen_flags, screen_flags
from abra_wilds.config.fields import path
from abra_wilds.config.screen import FILE, screen_folder
from abra_wilds.data.screens.found import proposed, settings_text, summary
from abra_wilds.data.screens.screen import Screen
from abra_wilds.results.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `abra-wilds screen init` and its flags."""
    jobs = parser.add_subparsers(dest="what", required=True, metavar="init")
    init = jobs.add_parser("init", help=f"write {FILE} beside a screen, from what its columns are called")
    init.add_argument("screen", type=path, metavar="TABLE_OR_FOLDER", help="as of --screen")
    init.add_argument("--yes", action="store_true", help="write without asking")
    add_screen_flags(init)


def run(args: argparse.Namespace) -> int:
    """Carry out `abra-wilds screen init`; 1 if nothing was written."""
    screen = Screen.open(args.screen, **screen_flags(args))
    target = (screen_folder(args.screen) / FILE).absolute()
    values = proposed(screen)
    text = settings_text(beside(target.parent, values))
    sys.stdout.write("\n".join([*summary(screen), "", f"{target}:", "", text, ""]))
    if not (args.yes or confirmed(target)):
        sys.stdout.write("nothing was written; --yes writes it without asking\n")
        return 1
    write_text(target, text)
    if "label_column" in values:
        use = f"'abra-wilds train --screen {args.screen} --algorithm ABRA' trains on it"
    else:
        use = f"without a --label_column, 'abra-wilds predict MODEL --screen {args.screen}' predicts it"
    sys.stdout.write(f"written; {use}\n")
    return 0


def beside(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Settings whose paths are read from a folder: relative where they were, or where they lie below it.

    So the folder can be moved, with what lies below or beside it.
    """
    found = dict(values)
    if "platemap" in found:
        found["platemap"] = seen_from(folder, found["platemap"])
    if "image_root" in found:
        pairs = [pair.partition("=") for pair in found["image_root"]]
        found["image_root"] = [f"{old}={seen_from(folder, new)}" for old, _, new in pairs]
    return found


def seen_from(folder: Path, given: str) -> str:
    """A path of this process as the file in the folder has it."""
    path = Path(given).absolute()
    if Path(given).is_absolute() and not path.is_relative_to(folder):
        return given
    return Path(os.path.relpath(path, folder)).as_posix()


def confirmed(target: Path) -> bool:
    """Whether a person at the terminal wants the file, in place of one that is there."""
    if not sys.stdin.isatty():
        return False
    replace = " in place of the one that is there" if target.exists() else ""
    return input(f"write {target}{replace}? [y/N] ").strip().lower() in ("y", "yes")
