"""One site's picture, as a function of the configuration and of where the site is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from abra_wilds.simulate.cells import paint
from abra_wilds.simulate.colony import magnification
from abra_wilds.simulate.config import SimulationConfig
from abra_wilds.simulate.optics import expose
from abra_wilds.simulate.traits import batch_effect, phenotype, traits_of

_CELLS_TAG, _NOISE_TAG = 301, 302


class Well(NamedTuple):
    """What decides a well's pictures.

    Attributes:
        cell_type: the cell line.
        experiment_index: position in `design.experiments`.
        plate: 1 to 4.
        well_index: position in `design.WELL_NAMES`.
        well_type: "treatment", "positive_control" or "negative_control".
        sirna_id: the class.
    """

    cell_type: str
    experiment_index: int
    plate: int
    well_index: int
    well_type: str
    sirna_id: int


def site_picture(config: SimulationConfig, well: Well, site: int) -> NDArray[np.unsignedinteger[Any]]:
    """Simulate one site.

    The sites of a well share traits and batch effect; cells and noise are drawn for each. Every random number
    comes from a generator of its own, seeded by place: neither workers nor the order of the pictures can
    change a byte.

    Args:
        config: of the screen.
        well: where, and what sits there.
        site: 1 or 2.

    Returns:
        (C, S, S) uint8 or uint16; C = 3 in the layout "wilds", 6 in "rxrx1", whose first three are the same.
    """
    place = (well.experiment_index, well.plate, well.well_index)
    effect = batch_effect(config.seed, place, config.batch_effect)
    reaction = phenotype(config.seed, well.sirna_id, well.cell_type, kind=well.well_type)
    traits = traits_of(well.cell_type, reaction, effect.drift)
    rng = np.random.default_rng([config.seed, _CELLS_TAG, *place, site])
    light = paint(traits, config.stains, config.image_size, rng)
    noise = [np.random.default_rng([config.seed, _NOISE_TAG, *place, site, stain]) for stain in config.stains]
    k = magnification(config.image_size)
    return expose(light, effect, config.stains, k, noise, depth=config.depth)
