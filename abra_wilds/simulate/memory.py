"""A simulated screen as arrays, without a file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from abra_wilds.simulate.arrays import Ints
from abra_wilds.simulate.config import SimulationConfig
from abra_wilds.simulate.design import wells_table
from abra_wilds.simulate.picture import Well, site_picture


class Pictures(NamedTuple):
    """The n pictures of a screen, plate by plate.

    Attributes:
        x: (n, C, S, S) uint8 grey levels.
        y: (n,) classes.
        plate: (n,) number of the plate, counted over the whole screen; a plate is of one split.
        split: (n,) "train", "val" or "test".
    """

    x: NDArray[np.uint8]
    y: Ints
    plate: Ints
    split: NDArray[np.str_]


def pictures(config: SimulationConfig) -> Pictures:
    """Simulate a screen in memory: a small one, since a picture of 64 pixels takes milliseconds."""
    wells = wells_table(config)
    seats = [Well(*values) for values in wells[list(Well._fields)].itertuples(index=False)]
    x = [site_picture(config, seat, site) for seat in seats for site in range(1, config.sites + 1)]
    of_well = {
        "y": wells["sirna_id"].to_numpy(np.intp),
        "plate": wells.groupby(["experiment", "plate"], sort=False).ngroup().to_numpy(np.intp),
        "split": wells["dataset"].to_numpy(np.str_),
    }
    return Pictures(np.stack(x), **{name: np.repeat(of, config.sites) for name, of in of_well.items()})
