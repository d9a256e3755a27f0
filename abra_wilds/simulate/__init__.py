"""Simulate a screen like RxRx1, pictures included: something to learn from where the real one is not at hand.

The cells, phenotypes and batch effects are invented; only the geometry of the screen is RxRx1's. A folder
made here holds SIMULATED.json, and no result measured on it says anything about biology.
"""

from __future__ import annotations

from abra_wilds.config.data import MARKER
from abra_wilds.simulate.config import SimulationConfig, preset
from abra_wilds.simulate.design import metadata_table, wells_table
from abra_wilds.simulate.memory import Pictures, pictures
from abra_wilds.simulate.picture import Well, site_picture
from abra_wilds.simulate.write import GENERATOR_VERSION, ensure, simulate

__all__ = [
    "GENERATOR_VERSION",
    "MARKER",
    "Pictures",
    "SimulationConfig",
    "Well",
    "ensure",
    "metadata_table",
    "pictures",
    "preset",
    "simulate",
    "site_picture",
    "wells_table",
]
