"""`abra-wilds simulate`: write a simulated screen."""

from __future__ import annotations

import argparse
import sys

from abra_wilds.config.data import MARKER
from abra_wilds.config.fields import path
from abra_wilds.simulate.config import DEPTHS, LAYOUTS, SCREENS, SimulationConfig, preset, refuse_request
from abra_wilds.simulate.formats import FORMATS
from abra_wilds.simulate.write import simulate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `abra-wilds simulate`; a flag that is not given leaves the preset's value."""
    parser.add_argument("root", type=path, metavar="ROOT", help="folder to write into; later the --root_dir")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="three stains, as RxRx1-WILDS (default), or six, as the research release",
    )
    parser.add_argument(
        "--depth", type=int, choices=DEPTHS, help="bits of a pixel (default 8); 16 bits have six stains"
    )
    parser.add_argument(
        "--write",
        choices=tuple(FORMATS),
        default="rxrx",
        help="files as in RxRx1 (default), LoadData with TIFF, OME-Zarr plates, or the export of a Phenix",
    )
    parser.add_argument(
        "--preset", choices=tuple(SCREENS), default="mini", help="seconds, a minute, or 125,510 images"
    )
    parser.add_argument("--classes", type=int, metavar="N", help="classes, controls included")
    parser.add_argument("--image_size", type=int, metavar="S", help="pixels a side")
    parser.add_argument("--seed", type=int, metavar="N", help="decides everything random (default 0)")
    parser.add_argument(
        "--batch_effect", type=float, metavar="F", help="strength: 0 none, 1 (default) as in a screen"
    )
    for split in ("train", "val", "test"):
        parser.add_argument(
            f"--{split}_experiments",
            type=int,
            nargs="+",
            metavar="N",
            help=f"{split} experiments: one number for all lines, or four for HEPG2 HUVEC RPE U2OS",
        )
    parser.add_argument("--sites", type=int, metavar="N", help="pictures a well, 1 or 2")
    parser.add_argument("--replicates", type=int, metavar="N", help="wells of each treatment on its plate")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a simulated screen of the same layout"
    )


def config_from(args: argparse.Namespace) -> SimulationConfig:
    """The configuration that the flags of `add_arguments` describe."""
    return preset(
        args.preset,
        layout=args.layout or ("wilds" if args.depth in (None, 8) and args.write == "rxrx" else "rxrx1"),
        depth=args.depth,
        classes=args.classes,
        image_size=args.image_size,
        seed=args.seed,
        batch_effect=args.batch_effect,
        sites=args.sites,
        replicates=args.replicates,
        train_experiments=_per_line(args.train_experiments),
        val_experiments=_per_line(args.val_experiments),
        test_experiments=_per_line(args.test_experiments),
    )


def run(args: argparse.Namespace) -> int:
    """Carry out `abra-wilds simulate`; InputError is left to the caller, who prints it."""
    config = config_from(args)
    target = simulate(
        args.root,
        config,
        write=args.write,
        workers=args.workers,
        progress=True,
        overwrite=args.overwrite,
    )
    sys.stdout.write(f"wrote {target} (simulated: see {MARKER})\n")
    return 0


def _per_line(counts: list[int] | None) -> tuple[int, ...] | None:
    """One count for all cell lines becomes four."""
    if counts is None:
        return None
    if len(counts) not in (1, 4):
        refuse_request(
            f"{len(counts)} experiment counts were given; "
            f"give one for all lines or four for HEPG2 HUVEC RPE U2OS"
        )
    return tuple(counts * 4 if len(counts) == 1 else counts)
