"""Any screen: where its images are, what its columns mean, and who trains and tests.

The same names, without dashes, may stand in `screen.yaml` beside the table; flags go before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from abra_wilds.config.fields import Options, expanded, flag_of, option, require, require_choice
from abra_wilds.errors import InputError

DATASET = "screen"  # what --dataset calls any screen
FILE = "screen.yaml"
SHARES = ("test", "val", "id_test")
WHO_TESTS = ("test", "leave_one_out", "fold")  # parts of --split, of which one is given
CONTROL_KINDS = ("negative", "positive")
# Which images train is nothing to a screen that is predicted as a whole.
OF_TRAINING = ("split", "split_column", "keep_together", "least_per_class", "least_per_bio_batch")


def _column(what: str, default: str = "none") -> Any:
    """A flag that names a column."""
    return option(None, f"column of {what}; unset: {default}", kind=str, later=True)


@dataclass(frozen=True)
class Division:
    """Which bio-batches validate and test, as --split says.

    Attributes:
        by: columns whose values go to one split as a whole; () for the bio-batches.
        shares: of SHARES, the share of these values that each takes.
        seed: of the draw.
        leave_one_out: the bio-batch that tests, instead of a share of them.
        fold: K and N: the K-th of N parts of all tests, counted from 1, instead of a share.
    """

    by: tuple[str, ...] = ()
    shares: tuple[tuple[str, float], ...] = ()
    seed: int = 0
    leave_one_out: str | None = None
    fold: tuple[int, int] | None = None


@dataclass(frozen=True)
class ScreenConfig(Options):
    """A screen of one's own: its table or folder, its columns, channels, labels and splits."""

    screen: str | None = option(
        None,
        "a table of images (CellProfiler's LoadData as csv or parquet), or a folder: of such a table, of an "
        "OME-Zarr plate, in a layout of RxRx, or of images whose names follow --pattern",
        kind=str,
        local=True,
        path=True,
        later=True,
    )
    image_root: tuple[str, ...] = option(
        (), "OLD=NEW: read paths that begin with OLD below NEW", kind=str, local=True, later=True
    )
    pattern: str | None = option(
        None,
        "regular expression of image files below the folder, with groups such as plate, well (or row and "
        "col), site, channel, plane; unset: those of Opera Phenix and ImageXpress",
        kind=str,
        later=True,
    )
    plane: str | None = option(
        None, "which plane of stacks is read: its number, or max; unset: files have one", kind=str, later=True
    )
    image_size: int = option(
        0,
        "pixels a side of what is read: images are binned, then cut; 0: as they are",
        at_least=0,
        later=True,
    )
    channels: tuple[str, ...] = option(
        (),
        "channels to read, in this order; NAME=OWN calls NAME what the screen calls OWN; unset: all",
        kind=str,
        distinct=True,
        later=True,
    )
    platemap: str | None = option(
        None,
        "table of what wells hold, joined by plate and well: one with such columns, or a "
        "barcode_platemap.csv with its maps beside it",
        kind=str,
        local=True,
        path=True,
        later=True,
    )
    allow_unmatched: bool = option(
        False, "join a platemap that lacks wells of the screen, or has wells without images", later=True
    )
    bio_batch_columns: tuple[str, ...] = option(
        (),
        "columns that define a bio-batch; unset: Metadata_Batch, or else the plate",
        kind=str,
        distinct=True,
        later=True,
    )
    plate_column: str | None = _column("the plate's name", "Metadata_Plate")
    well_column: str | None = _column("the well", "Metadata_Well")
    site_column: str | None = _column("the site within a well", "Metadata_Site, or one site a well")
    label_column: str | None = _column("the class to predict", "Metadata_Label")
    cell_line_column: str | None = _column("the cell line", "Metadata_Cell_Line, or one line")
    split_column: str | None = _column("train, val, test or id_test", "Metadata_Split, without --split")
    split: tuple[str, ...] = option(
        (),
        "draw splits of whole bio-batches: test=0.2 val=0.1 seed=0, by=COLUMN for coarser ones, id_test=0.1 "
        "for images of training bio-batches, leave_one_out=NAME for a single test bio-batch, fold=K/N for "
        "the K-th of N parts",
        kind=str,
        later=True,
    )
    keep_together: str | None = _column("images that are never split, such as of one frame")
    control_column: str | None = _column("the kind of a well", "Metadata_control_type or Metadata_pert_type")
    controls: tuple[str, ...] = option(
        (),
        "values of --control_column: negative=DMSO positive=poscon; unset: negcon, poscon and the like",
        kind=str,
        distinct=True,
        later=True,
    )
    least_per_class: int = option(
        0, "classes with fewer training images are left out of all splits", at_least=0, later=True
    )
    least_per_bio_batch: int = option(
        2, "bio-batches with fewer images are not trained on", at_least=1, later=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not (self.split and self.split_column), "split", "given without --split_column", "both of them"
        )
        for name in ("image_root", "channels", "controls"):
            self._pairs(name)
        for kind, _ in self._pairs("controls"):
            require_choice("controls", kind, CONTROL_KINDS)
        plane = self.plane
        require(plane in (None, "max") or str(plane).isdecimal(), "plane", "max or a number", plane)
        _ = self.division

    @property
    def roots(self) -> list[tuple[str, str]]:
        """OLD and NEW of --image_root."""
        return [(old, expanded(new, "--image_root")) for old, new in self._pairs("image_root")]

    @property
    def own_channels(self) -> dict[str, str]:
        """Name of each channel that is read -> what the screen calls it; empty for all by their own names."""
        return {name: own or name for name, own in self._pairs("channels")}

    @property
    def control_values(self) -> dict[str, str]:
        """Value of the control column -> "negative" or "positive"."""
        return {value: kind for kind, value in self._pairs("controls")}

    @property
    def division(self) -> Division | None:
        """What --split says, or None without it.

        Raises:
            InputError: for what is no such part, or shares that leave nothing to train on.
        """
        if not self.split:
            return None
        parts: dict[str, str] = {}
        by = []
        for key, value in self._pairs("split"):
            require_choice("split", key, ("by", "seed", *WHO_TESTS[1:], *SHARES))
            require(key == "by" or key not in parts, "split", f"with {key} once", self.split)
            by += [value] if key == "by" else []
            parts[key] = value
        shares = tuple((name, _share(name, parts[name])) for name in SHARES if name in parts)
        require(sum(share for _, share in shares) < 1, "split", "shares that leave some to train", self.split)
        allowed = "one of test=SHARE, leave_one_out=NAME and fold=K/N"
        require(sum(key in parts for key in WHO_TESTS) == 1, "split", allowed, self.split)
        seed, fold = parts.get("seed", "0"), parts.get("fold")
        require(seed.isdecimal(), "split seed", "a whole number", seed)
        return Division(
            tuple(by), shares, int(seed), parts.get("leave_one_out"), None if fold is None else _fold(fold)
        )

    def _pairs(self, name: str) -> list[tuple[str, str]]:
        """NAME=VALUE of a field's values; only channels may lack the value."""
        found = []
        for text in getattr(self, name):
            key, equals, value = text.partition("=")
            complete = key and (value or (name == "channels" and not equals))
            require(bool(complete), name, "NAME=VALUE", text)
            found.append((key, value))
        return found


def _share(name: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    require(0 < share < 1, f"split {name}", "a share in (0, 1)", text)
    return share


def _fold(text: str) -> tuple[int, int]:
    k, _, n = text.partition("/")
    fits = k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n) and int(n) > 1
    require(fits, "split fold", "K/N with K from 1 to N, such as 1/4", text)
    return int(k), int(n)


def screen_folder(screen: str | Path) -> Path:
    """The folder of a screen, where its screen.yaml stands: a folder itself, or that of a table or plate."""
    path = Path(screen)
    return path if path.is_dir() and path.suffix != ".zarr" else path.parent


def check_settings(values: Mapping[str, Any], path: Path) -> None:
    """Refuse a screen.yaml that holds what no flag of a screen is.

    Raises:
        InputError: with its name.
    """
    known = [f.name for f in fields(ScreenConfig)]
    for name in values:
        if name not in known:
            raise InputError(f"{path} has {name!r}; it may have {', '.join(known)}")


def relative_to(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a screen.yaml, whose relative paths are below its folder."""
    found = dict(values)
    for f in fields(ScreenConfig):
        if flag_of(f).path and found.get(f.name):
            found[f.name] = str(folder / expanded(str(found[f.name]), f"--{f.name}"))
    roots = found.get("image_root")
    if roots:
        pairs: Sequence[Any] = roots if isinstance(roots, list | tuple) else [roots]
        split = [str(pair).partition("=") for pair in pairs]
        found["image_root"] = [f"{old}={folder / expanded(new)}" if new else old for old, _, new in split]
    return found
