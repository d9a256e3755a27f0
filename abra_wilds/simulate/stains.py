"""The six stains of RxRx1: how much of each a pixel of a cell holds, relative to the stain's level.

Letters: M pixels of cells (`pixels.Pixels`), n cells, S image side. Every function returns (M,) light; the
    caller
multiplies by level, by the cell's brightness and by how much of the pixel is cell.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from abra_wilds.simulate.arrays import F32
from abra_wilds.simulate.colony import Colony
from abra_wilds.simulate.pixels import Pixels, Texture
from abra_wilds.simulate.traits import Traits

Stain = Callable[[Traits, Pixels, Texture, Colony, float], F32]


def hoechst(traits: Traits, pixels: Pixels, texture: Texture, colony: Colony, k: float) -> F32:
    """1, DNA: mottled nuclei with darker nucleoli, and next to nothing outside."""
    mottle = 1.0 + traits.chromatin * (0.6 * texture.grain + 0.8 * texture.weave)[pixels.where]
    dome = 1.12 - 0.25 * (pixels.nu * pixels.nu).sum(0)
    holes = 1.0 - np.clip(0.45 * traits.nucleoli * _nucleoli(pixels, colony), 0.0, 0.8)
    light: F32 = pixels.nuclear * np.clip(mottle * dome * holes, 0.05, None) + np.float32(0.02)
    return light


def concanavalin(traits: Traits, pixels: Pixels, texture: Texture, colony: Colony, k: float) -> F32:
    """2, endoplasmic reticulum: densest around the nucleus, granular, with bright vesicles."""
    fall = np.exp(-traits.er_decay * pixels.rho * pixels.rho)
    grain = texture.grain[pixels.where]
    mottle = 1.0 + traits.er_grain * (0.5 * grain + 0.6 * texture.weave[pixels.where])
    vesicles = 2.5 * traits.er_grain * np.clip(grain - 1.7, 0.0, 1.0)
    light: F32 = np.clip(mottle + vesicles, 0.1, None) * fall * (1.0 - 0.62 * pixels.nuclear)
    return light


def phalloidin(traits: Traits, pixels: Pixels, texture: Texture, colony: Colony, k: float) -> F32:
    """3, actin: stress fibres along the cell's axis and a cortex at its outline."""
    warp = 0.5 * texture.weave[pixels.where] + 3.0 * texture.drift[pixels.where]
    # Fibres closer than 3 px cannot be drawn, so small images show thicker ones.
    pitch = max(traits.actin_pitch * k, 3.0)
    stripe = np.clip(np.sin(pixels.across * np.float32(2 * np.pi / pitch) + warp), 0.0, None)
    patchy = np.clip(0.6 + 0.6 * texture.weave[pixels.where], 0.0, 1.5)
    cortex = np.exp(-(((pixels.rho - 0.93) / 0.11) ** 2))
    flat = 0.62 - 0.15 * pixels.nuclear + 0.25 * np.exp(-3.0 * pixels.rho)
    mottle = np.clip(1.0 + 0.16 * texture.grain[pixels.where], 0.2, None)
    fibres = traits.actin_fibres * stripe * stripe * patchy
    light: F32 = (flat + fibres + traits.actin_cortex * cortex) * mottle
    return light


def syto(traits: Traits, pixels: Pixels, texture: Texture, colony: Colony, k: float) -> F32:
    """4, RNA: nucleoli, and cytoplasm that thins towards the rim."""
    cytoplasm = np.exp(-traits.rna_decay * pixels.rho * pixels.rho)
    cytoplasm *= np.clip(1.0 + 0.16 * (texture.grain + texture.weave)[pixels.where], 0.1, None)
    nucleus = traits.rna_nuclear + 0.7 * traits.nucleoli * _nucleoli(pixels, colony)
    light: F32 = pixels.nuclear * nucleus + (1.0 - pixels.nuclear) * cytoplasm
    return light


def mitotracker(traits: Traits, pixels: Pixels, texture: Texture, colony: Colony, k: float) -> F32:
    """5, mitochondria: a net of threads in the cytoplasm, here the zero lines of a random field."""
    threads = np.clip(1.0 - 2.2 * np.abs(texture.weave[pixels.where]), 0.0, None)
    net = 0.75 + traits.mito_network * (1.6 * threads - 0.4 + 0.25 * texture.grain[pixels.where])
    fall = np.exp(-traits.mito_decay * pixels.rho)
    light: F32 = np.clip(net, 0.08, None) * fall * (1.35 - 0.75 * pixels.nuclear)
    return light


def wheat_germ(traits: Traits, pixels: Pixels, texture: Texture, colony: Colony, k: float) -> F32:
    """6, membranes and Golgi: a flat body, a bright outline, a patch beside the nucleus."""
    rim = np.exp(-(((pixels.rho - 0.95) / 0.08) ** 2))
    envelope = np.exp(-((((pixels.nu * pixels.nu).sum(0) - 1.0) / 0.35) ** 2))
    patch = np.exp(-((pixels.nu[0] - 1.3) ** 2 + pixels.nu[1] ** 2) / 0.55)
    mottle = np.clip(1.0 + 0.18 * texture.grain[pixels.where], 0.2, None)
    stacks = traits.golgi * patch * np.clip(0.8 + 0.6 * texture.weave[pixels.where], 0.0, None)
    outline = traits.membrane * (rim + 0.6 * envelope)
    light: F32 = (0.75 - 0.15 * pixels.nuclear + outline + stacks) * mottle
    return light


def _nucleoli(pixels: Pixels, colony: Colony) -> F32:
    """How much of a pixel is nucleolus, (M,): three soft spots a nucleus."""
    spots = np.zeros(len(pixels.where), np.float32)
    at = np.flatnonzero(pixels.nuclear > 0)
    dots = colony.dots.astype(np.float32)[pixels.cell[at]]  # (m, 3, 2)
    for i in range(dots.shape[1]):
        u, v = pixels.nu[0, at] - dots[:, i, 0], pixels.nu[1, at] - dots[:, i, 1]
        spots[at] += np.exp(-(u * u + v * v) * np.float32(18.0))
    return spots


STAIN_PAINTERS: tuple[Stain, ...] = (hoechst, concanavalin, phalloidin, syto, mitotracker, wheat_germ)
