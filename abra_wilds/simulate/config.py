"""What to simulate: the frozen configuration, its presets and its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from abra_wilds.errors import InputError
from abra_wilds.simulate.traits import CELL_LINES

LAYOUTS = ("wilds", "rxrx1")
DEPTHS = (8, 16)
PLATES = (1, 2, 3, 4)
PLATE_ROWS, PLATE_COLUMNS = "BCDEFGHIJKLMNO", range(2, 24)  # the outer wells of a 384-well plate stay empty
PLATE_WELLS = len(PLATE_ROWS) * len(PLATE_COLUMNS)  # 308
MIN_CLASSES, MAX_CLASSES = 6, 1139
OFFICIAL_POSITIVES = 30  # of the 1,139 classes; another 1 is the negative control and 1,108 are treatments

Counts = tuple[int, int, int, int]  # experiments of HEPG2, HUVEC, RPE, U2OS


def refuse_request(sentence: str) -> NoReturn:
    """Raise InputError."""
    raise InputError(sentence)


@dataclass(frozen=True)
class SimulationConfig:
    """Everything that decides the bytes of a simulated screen; the defaults are the preset "mini".

    Attributes:
        layout: "wilds" (RxRx1-WILDS: RGB, stains 1-3) or "rxrx1" (the research release: six grey files a
            site).
        classes: O; see `n_positives` for how they are divided.
        image_size: pixels a side. Cells shrink with its square root (`colony.magnification`), the field does
            the rest.
        train_experiments: of HEPG2, HUVEC, RPE, U2OS.
        val_experiments: the same; the layout "rxrx1" calls them test, as the research release does.
        test_experiments: the same.
        sites: pictures of a well, 1 or 2; WILDS' id_test is the second one.
        replicates: wells of each treatment on its plate; controls have one well on every plate.
        seed: decides everything random.
        batch_effect: strength F of experiment, plate and well effects; 0 makes all experiments exchangeable.
        depth: bits of a pixel, 8 or 16; of 16 a camera's 12 are used.
    """

    layout: str = "wilds"
    classes: int = 20
    image_size: int = 64
    train_experiments: Counts = (2, 2, 2, 2)
    val_experiments: Counts = (1, 1, 1, 1)
    test_experiments: Counts = (1, 1, 1, 1)
    sites: int = 2
    replicates: int = 11
    seed: int = 0
    batch_effect: float = 1.0
    depth: int = 8

    def __post_init__(self) -> None:
        """Check every field, so that nothing is written for a request that cannot be met."""
        if self.layout not in LAYOUTS:
            refuse_request(f"layout {self.layout!r} is unknown; choose one of {', '.join(LAYOUTS)}")
        _between("classes", self.classes, MIN_CLASSES, MAX_CLASSES)
        _between("image_size", self.image_size, 32, 2048)
        _between("sites", self.sites, 1, 2)
        _between("replicates", self.replicates, 1, PLATE_WELLS)
        _between("seed", self.seed, 0, 2**32 - 1)
        for name in ("train_experiments", "val_experiments", "test_experiments"):
            _check_counts(name, getattr(self, name))
        if sum(self.train_experiments) == 0:
            refuse_request("train_experiments are all 0; a screen needs at least one training experiment")
        if not (math.isfinite(self.batch_effect) and self.batch_effect >= 0):
            refuse_request(
                f"batch_effect is {self.batch_effect}; give a number >= 0, where 1 resembles a real screen"
            )
        if self.depth not in DEPTHS:
            refuse_request(f"depth is {self.depth}; choose 8 or 16 bits a pixel")
        if self.wells > PLATE_WELLS:
            refuse_request(
                f"{self.n_treatments // 4} treatments x {self.replicates} replicates and "
                f"{self.n_positives + 1} controls need {self.wells} wells a plate, which has {PLATE_WELLS}; "
                f"lower --replicates or --classes"
            )

    @property
    def n_positives(self) -> int:
        """Positive controls: RxRx1's share (30 of 1,139), and such that the treatments divide by 4 plates.

        >>> SimulationConfig(classes=32).n_positives, SimulationConfig(classes=1139, replicates=1).n_positives
        (3, 30)
        """
        least = max(1, self.classes * OFFICIAL_POSITIVES // MAX_CLASSES)
        return least + (self.classes - 1 - least) % len(PLATES)

    @property
    def n_treatments(self) -> int:
        """Classes that are treatments: ids 0 to n_treatments - 1."""
        return self.classes - 1 - self.n_positives

    @property
    def wells(self) -> int:
        """Wells a plate."""
        return self.n_treatments // len(PLATES) * self.replicates + self.n_positives + 1

    @property
    def is_official_geometry(self) -> bool:
        """Whether the wells are those of the real screen, of which 77 are missing."""
        same = ("classes", "train_experiments", "val_experiments", "test_experiments", "replicates")
        return all(getattr(self, name) == SCREENS["full"][name] for name in same)

    @property
    def stains(self) -> tuple[int, ...]:
        """The painted stains among the six, 0-based."""
        return (0, 1, 2) if self.layout == "wilds" else tuple(range(6))


_EXPERIMENTS: dict[str, Counts] = {
    "train_experiments": (7, 16, 7, 3),
    "val_experiments": (1, 1, 1, 1),
    "test_experiments": (3, 7, 3, 1),
}
# mini is what a ResNet-18 learns from scratch in about three minutes on two cores: 20 classes, most of them
# with 88 training images (4 treatments x 11 wells + 4 controls = 48 wells a plate). Two training
# experiments a line rather than three, because three already taught it most of what the batch effects do.
# midi is what methods are compared on: RxRx1-WILDS' experiments, and 28 treatments of which a plate shows a
# quarter; a small network takes seconds for an epoch of it.
SCREENS: dict[str, dict[str, Any]] = {
    "mini": {},
    "midi": {"classes": 32, "image_size": 48, "replicates": 2, **_EXPERIMENTS},
    "full": {"classes": MAX_CLASSES, "replicates": 1, **_EXPERIMENTS},
}
_FULL_SIZE = {"wilds": 256, "rxrx1": 512}


def preset(name: str, **overrides: Any) -> SimulationConfig:
    """A preset with some fields replaced.

    Args:
        name: "mini" (seconds), "midi" (a minute) or "full" (the official geometry, 125,510 images: hours).
        **overrides: fields of SimulationConfig; None leaves the preset's value.

    Raises:
        InputError: an unknown preset, or a value outside its limits.

    >>> preset("full").wells, preset("full", layout="rxrx1").image_size, preset("mini").image_size
    (308, 512, 64)
    """
    if name not in SCREENS:
        refuse_request(f"preset {name!r} is unknown; choose one of {', '.join(SCREENS)}")
    values = dict(SCREENS[name])
    if name == "full":
        values["image_size"] = _FULL_SIZE.get(overrides.get("layout") or "wilds", 256)
    values.update({key: value for key, value in overrides.items() if value is not None})
    known = {field.name for field in fields(SimulationConfig)}
    for key in values.keys() - known:
        refuse_request(f"{key!r} is no setting of the simulator; choose from {', '.join(sorted(known))}")
    return SimulationConfig(**values)


def _between(name: str, value: int, low: int, high: int) -> None:
    """Refuse a number outside [low, high]."""
    if not low <= value <= high:
        refuse_request(f"{name} is {value}; give a whole number from {low} to {high}")


def _check_counts(name: str, counts: Counts) -> None:
    """Refuse anything but four experiment counts."""
    if len(counts) != len(CELL_LINES) or not all(0 <= n <= 99 for n in counts):
        refuse_request(
            f"{name} is {counts}; give four numbers from 0 to 99, in the order {', '.join(CELL_LINES)}"
        )
