"""From light to grey levels: haze, illumination, bleed-through, defocus, background, camera noise.

Letters: C stains painted, S image side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from abra_wilds.simulate.arrays import F32
from abra_wilds.simulate.traits import BatchEffect

# Grey levels of an empty field for the six stains, read off the darkest percent of the one real site.
_BACKGROUND = (1.2, 2.6, 2.0, 1.8, 4.5, 3.2)
_HAZE = (0.02, 0.22, 0.25, 0.18, 0.35, 0.40)  # share of the light that is out of focus everywhere
_READ_NOISE, _SHOT_NOISE = 0.20, 0.14  # grey levels; grey levels per square root of one
_FOCUS = 0.75  # the best focus, standard deviation in pixels of a 512 px image


def expose(
    light: F32,
    effect: BatchEffect,
    stains: tuple[int, ...],
    k: float,
    rngs: list[np.random.Generator],
    *,
    depth: int = 8,
) -> NDArray[np.unsignedinteger[Any]]:
    """Take the picture.

    Args:
        light: (C, S, S) from `cells.paint`.
        effect: of the well.
        stains: the C stains' positions among the six.
        k: image pixels per trait pixel.
        rngs: one generator a stain for its noise, so that a stain looks the same whatever others are painted.

        depth: bits of a pixel: 8, or 16 of which 12 are used, with 16 levels for each of those of 8.

    Returns:
        (C, S, S) uint8 or uint16.
    """
    at = np.array(stains)
    lit = _bleed(light, effect.bleed[np.ix_(at, at)]) * _illumination(effect, light.shape[-1])
    gain = np.exp(effect.log_gain)
    sigma = k * float(np.hypot(_FOCUS, effect.blur))
    noise = float(np.exp(effect.log_noise))
    step, highest = (1, 255) if depth == 8 else (16, 4095)
    out = np.empty(light.shape, f"uint{depth}")
    for row, (stain, rng) in enumerate(zip(stains, rngs, strict=True)):
        sharp = gaussian_filter(lit[row], sigma, truncate=3.0)
        glow = _haze(lit[row])
        grey = (sharp + np.float32(_HAZE[stain]) * glow) * np.float32(gain[stain])
        grey += np.float32(_BACKGROUND[stain] + effect.offset[stain])
        spread = np.float32(noise) * (_READ_NOISE + _SHOT_NOISE * np.sqrt(np.maximum(grey, 0.0)))
        grey += spread * rng.standard_normal(grey.shape, dtype=np.float32)
        out[row] = np.clip(np.rint(grey * np.float32(step)), 0, highest)
    return out


def _bleed(light: F32, share: NDArray[np.float64]) -> F32:
    """Add to stain i a share (C, C) of stain j's light; spelt out, as BLAS may sum in another order."""
    out = light.copy()
    for i, j in zip(*np.nonzero(share), strict=True):
        out[i] += np.float32(share[i, j]) * light[j]
    return out


def _illumination(effect: BatchEffect, size: int) -> F32:
    """Relative brightness of the lamp over the field, (S, S)."""
    t = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    x, y = t[None, :], t[:, None]
    tilt = np.float32(effect.shade[0]) * x + np.float32(effect.shade[1]) * y
    return np.clip(1.0 + tilt - np.float32(effect.vignette) * (x * x + y * y) / 2, 0.15, None).astype(
        np.float32
    )


def _haze(light: F32) -> F32:
    """The light of other focal planes, (S, S): a very wide blur, by way of a sixteenth of the side."""
    size = light.shape[0]
    few = max(2, size // 16)
    small = Image.fromarray(light).resize((few, few), Image.Resampling.BOX)
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))
