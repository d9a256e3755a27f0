"""What is known of each data set before it is opened: its splits, bio-batches and the judge of epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

Fields = tuple[str, ...]
WELLS: Mapping[str, Fields] = MappingProxyType(
    {
        "experiments": ("experiment",),
        "plates": ("experiment", "plate"),
        "wells": ("experiment", "plate", "well"),
    }
)


@dataclass(frozen=True)
class Known:
    """A data set, by the names that it has in WILDS or here.

    Attributes:
        schemes: what it can be split by, the default first.
        groups: what one bio-batch may be to --tta -> the metadata fields that define it, the default first.
        units: what its tables of splits count -> the metadata fields that define one.
        sizes: what those tables say of sizes -> the unit whose images are counted.
        values: flags with other defaults than RxRx1's; what methods ask for is in RxRx1's words.
    """

    schemes: tuple[str, ...]
    groups: Mapping[str, Fields]
    units: Mapping[str, Fields] = field(default_factory=lambda: WELLS)
    sizes: Mapping[str, str] = field(
        default_factory=lambda: {"sites a well": "wells", "images a plate": "plates"}
    )
    values: Mapping[str, Any] = field(default_factory=dict)


PLATES: Mapping[str, Fields] = {"plate": ("experiment", "plate"), "experiment": ("experiment",)}
# The others are judged as p-lambda/wilds 4726775 does by default, examples/configs/datasets.py.
DATASETS: Mapping[str, Known] = {
    "rxrx1": Known(("official", "mixed-to-test"), PLATES),
    "rxrx1_6ch": Known(("wilds", "official", "heldout"), PLATES),
    "screen": Known(("screen",), PLATES),  # split as its table or --split says
    "camelyon17": Known(
        ("official", "mixed-to-test"),
        {"hospital": ("hospital",), "slide": ("slide",)},
        {"hospitals": ("hospital",), "slides": ("slide",)},
        {"images a slide": "slides"},
        {"groupby_fields": ("hospital",), "tta_group": "hospital", "val_metric": "acc_avg"},
    ),
    "iwildcam": Known(
        ("official",),
        {"location": ("location",)},
        {"locations": ("location",), "sequences": ("sequence",)},
        {"images a location": "locations"},
        {
            "groupby_fields": ("location",),
            "tta_group": "location",
            "val_metric": "F1-macro_all",
            "no_group_logging": True,
        },
    ),
    "fmow": Known(
        ("official", "mixed-to-test"),
        {"year": ("year",), "region": ("region",), "region_year": ("region", "year")},
        {"regions": ("region",), "years": ("year",)},
        {"images a year": "years"},
        {"groupby_fields": ("year",), "tta_group": "year", "val_metric": "acc_worst_region"},
    ),
}
OF_RXRX1 = ("rxrx1", "rxrx1_6ch")  # found below --root_dir, on plates of wells
OTHERS = ("camelyon17", "iwildcam", "fmow")  # of WILDS
SPLIT_SCHEMES = {name: known.schemes for name, known in DATASETS.items()}
# Its names mean the same in every data set.
TTA_GROUPS = {group: own for known in DATASETS.values() for group, own in known.groups.items()}


def known_of(name: str) -> Known:
    """What is known of a data set by its name; one from outside is taken to be like RxRx1."""
    return DATASETS.get(name, DATASETS["rxrx1"])
