"""`abra-wilds fetch`: download RxRx1 or another set of WILDS, resumed where it broke off, and checked."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from abra_wilds.config.datasets import OF_RXRX1
from abra_wilds.config.fields import path
from abra_wilds.config.files import once
from abra_wilds.errors import InputError
from abra_wilds.fetch.fetch import FETCHED, fetch
from abra_wilds.fetch.sources import SOURCES
from abra_wilds.terminal import remedy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `abra-wilds fetch`."""
    parser.add_argument(
        "dataset",
        choices=tuple(SOURCES),
        help="RxRx1-WILDS (7 GB), RxRx1 with six channels (47), Camelyon17 (11), iWildCam (12) or FMoW (54)",
    )
    parser.add_argument(
        "root",
        type=path,
        nargs="?",
        metavar="ROOT",
        default=os.environ.get("WILDS_DATA", "data"),
        help="folder to put the data set's folder into (default $WILDS_DATA, else data)",
    )
    parser.add_argument(
        "--source", metavar="URL", help="where the same files are, instead of their publisher"
    )
    parser.add_argument(
        "--sha256",
        metavar="NAME=HEX",
        action="append",
        default=[],
        help="checksum that a file must have; may be given several times",
    )


def expected_sums(given: Sequence[str]) -> dict[str, str]:
    """{name: sha256} of what --sha256 was given.

    Raises:
        InputError: if one is not NAME=HEX.
    """
    for item in given:
        if not re.fullmatch(r"[^=]+=[0-9a-fA-F]{64}", item):
            raise InputError(f"--sha256 {item} is not NAME=HEX, with the 64 digits that sha256sum prints")
    pairs = (item.split("=") for item in given)
    return once(((name, checksum.lower()) for name, checksum in pairs), "sha256")


def run(args: argparse.Namespace) -> int:
    """Carry out `abra-wilds fetch`; InputError is left to the caller, who prints it."""
    name, root = args.dataset, args.root
    try:
        target = fetch(name, root, args.source, expected_sums(args.sha256))
    except OSError as fault:
        raise InputError(
            f"{fault.filename or root} cannot be written or moved ({fault.strerror or fault}); "
            f"{remedy(fault)}, and give the same command again; it continues from there"
        ) from fault
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    if target is None:
        print(f"{name} is already there, in {root}")
    else:
        report_fetched(target)
    if name in OF_RXRX1:
        print(f"next: abra-wilds validate {shlex.quote(str(root))}")
    return 0


def report_fetched(target: Path) -> None:
    """Print what came, where it is, and under which licence."""
    what = json.loads((target / FETCHED).read_text(encoding="utf-8"))
    files = what["files"]
    total = sum(file["bytes"] for file in files.values())
    print(f"fetched {what['dataset']} into {target}: {total:,} bytes, files: {len(files):,}, see {FETCHED}")
    for name, file in files.items() if len(files) <= 10 else ():
        print(f"  {name}  {file['bytes']:,} bytes  sha256 {file['sha256']}  (compared: {file['checked']})")
    print(f"licence: {what['licence']}")
