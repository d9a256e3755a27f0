"""`abra-wilds doctor [CHECKOUT]`: what is installed, what computes, what is missing and how to fix it."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from abra_wilds.board.extra import BOARD_PACKAGES
from abra_wilds.config.data import MARKER
from abra_wilds.config.fields import expanded, path
from abra_wilds.errors import InputError

REQUIRED = (
    "torch",
    "torchvision",
    "wilds",
    "pandas",
    "pyarrow",
    "numpy",
    "scikit-learn",
    "scipy",
    "tqdm",
    "PyYAML",
    "pillow",
    "filelock",
    "requests",
    "huggingface_hub",
    "safetensors",
    "tifffile",
)
OPTIONAL = {
    **dict.fromkeys(BOARD_PACKAGES, "needed by figures and reports: pip install 'abra-wilds[board]'"),
    "torch-scatter": "a stand-in computes the same group means",
    "tensorboard": "needed by --tracker tensorboard: pip install 'abra-wilds[track]'",
    "lightly": "needed by SimCLR, BYOL and DINOv2: pip install 'abra-wilds[ssl]'",
    "zarr": "needed by OME-Zarr plates: pip install 'abra-wilds[zarr]'",
    "timm": "needed by --model vit_small and timm:NAME: pip install 'abra-wilds[timm]'",
}
# What fixes WILDS' own command, by the package that stands in its way.
PLAIN_FIXES = {
    "torchvision": "install the torchvision that was built for this torch",
    "torch_scatter": "pip install --no-build-isolation torch-scatter",
    "pandas": "pip install 'pandas<3'",
    "transformers": "pip install 'transformers<4.50'",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: was looked at.
        state: what was found.
        fix: what to do about it; None where nothing needs to be done.
        helped: whether `abra-wilds wilds` does without the fix.
    """

    what: str
    state: str
    fix: str | None = None
    helped: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "checkout",
        type=path,
        nargs="?",
        metavar="CHECKOUT",
        help="also what keeps a checkout of WILDS from starting",
    )


def run(args: argparse.Namespace) -> int:
    """Print every finding; 0 if nothing keeps the package from working, else 1."""
    findings = [f for check in CHECKS for f in check()]
    findings += check_checkout(args.checkout) if args.checkout is not None else []
    width = max(len(f.what) for f in findings)
    for f in findings:
        mark = "ok  " if f.fix is None else "HELP" if f.helped else "FIX "
        print(f"{mark}  {f.what:{width}}  {f.state}" + (f"\n      {'':{width}}  -> {f.fix}" if f.fix else ""))
    broken = sum(f.fix is not None and not f.helped for f in findings)
    print("nothing to fix" if not broken else f"{broken} to fix")
    return 1 if broken else 0


def check_python() -> Iterator[Finding]:
    """The interpreter."""
    old = sys.version_info < (3, 11)
    yield Finding("python", platform.python_version(), "use Python 3.11 or newer" if old else None)


def check_packages() -> Iterator[Finding]:
    """Versions of what is required and of what is optional."""
    for name in REQUIRED:
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "not installed", f"pip install {name}")
            continue
        yield Finding(name, found)
    for name, without in OPTIONAL.items():
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            yield Finding(name, f"not installed; optional: {without}")


def check_imports() -> Iterator[Finding]:
    """Whether torchvision and WILDS load, and which scatter WILDS' evaluators will use."""
    try:
        from abra_wilds.compat.imports import import_wilds, scatter_backend

        import_wilds()
        yield Finding("import wilds", "works")
        yield Finding("scatter", scatter_backend())
    except (ImportError, OSError, RuntimeError, InputError) as fault:
        yield Finding(
            "import wilds", str(fault).splitlines()[0], "install the versions of constraints.txt together"
        )


def check_devices() -> Iterator[Finding]:
    """What computes."""
    yield Finding("cores", str(os.cpu_count()))
    try:
        import torch
    except ImportError:
        return
    built = torch.version.cuda
    if torch.backends.mps.is_available():
        yield Finding("mps", "an Apple GPU, taken by --device mps or auto")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / 2**30
            yield Finding(f"cuda:{i}", f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB")
    elif built and shutil.which("nvidia-smi"):
        yield Finding(
            "cuda", f"torch is built for CUDA {built} but sees no device", "update the NVIDIA driver"
        )
    else:
        yield Finding("cuda", "none; all runs on the CPU, slowly, unless --device says otherwise")


def check_data() -> Iterator[Finding]:
    """Whether the data sets lie where the command will look for them."""
    root = Path(expanded(os.environ.get("WILDS_DATA", "data"), "WILDS_DATA"))
    places = {"rxrx1": ("rxrx1_v1.0",), "rxrx1_6ch": ("rxrx1_6ch_v1.0", "rxrx1", "")}
    for name, folders in places.items():
        tables = [root / folder / table for folder in folders for table in ("metadata.csv", "train.csv")]
        where = next((table.parent for table in tables if table.is_file()), None)
        if where is None:
            layout = " --layout rxrx1" if name == "rxrx1_6ch" else ""
            to = shlex.quote(str(root))
            fetch = f"abra-wilds fetch {name} {to}, or a simulated one: abra-wilds simulate {to}{layout}"
            yield Finding(name, f"not in {root / folders[0]}; {fetch}")
            continue
        simulated = " (simulated)" if (where / MARKER).is_file() else ""
        packed = ", packed" if (where / "packed" / "index.json").is_file() else ""
        yield Finding(name, f"found in {where}{simulated}{packed}")


def check_checkout(path: str) -> Iterator[Finding]:
    """A checkout of WILDS, and whatever keeps its own run_expt.py from starting here."""
    try:
        from abra_wilds.harness.checkout import find_checkout
        from abra_wilds.harness.session import open_session

        checkout = find_checkout(path)
        with open_session(checkout) as supplied:
            yield Finding("checkout", str(checkout))
    except (ImportError, OSError, RuntimeError, InputError) as fault:
        yield Finding("checkout", str(fault).splitlines()[0], "fix this first")
        return
    for package, state in supplied.items():
        yield Finding(
            f"its {package}",
            state,
            f"`abra-wilds wilds` does without; for WILDS' own command: {PLAIN_FIXES[package]}",
            helped=True,
        )
    if not supplied:
        yield Finding("its imports", "nothing that it is known to miss is missing here")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_packages,
    check_imports,
    check_devices,
    check_data,
)
