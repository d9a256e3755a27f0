"""What one image shows of its quality, channel by channel; nothing here depends on the depth of pixels.

Letters: C channels, H W of an image, M measures, R rings of frequencies.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft2
from scipy.ndimage import convolve, gaussian_filter, laplace

F64 = NDArray[np.float64]
MEASURES = ("focus", "sharpness", "saturated", "foreground", "contrast", "mean", "spread")
# Where pixels pile up that got more light than fits: the depth's own end, and those of cameras of fewer bits,
# whose levels are written as they are, or shifted up to the depth.
CEILINGS = {
    np.dtype(np.uint8): (255,),
    np.dtype(np.uint16): (1023, 4095, 16383, 65472, 65520, 65532, 65535),
}
STEPS = 5.0  # of noise above the field's light where the foreground begins
_NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def measure(x: NDArray[Any]) -> F64:
    """The MEASURES of an image, (C, M).

    Args:
        x: (C, H, W) uint8 or uint16, of at least 8 pixels a side.
    """
    return np.array([_measure(channel) for channel in x])


def _measure(grey: NDArray[Any]) -> list[float]:
    light = grey.astype(np.float32)
    sharp = (spectrum_slope(light), sharpness(light))
    return [*sharp, saturated_share(grey), *foreground(light), float(light.mean()), float(light.std())]


def spectrum_slope(grey: NDArray[np.float32]) -> float:
    """The slope of log power over log frequency, averaged over directions; lower is less sharp.

    As PowerLogLogSlope of CellProfiler's MeasureImageQuality (Bray et al. 2012, J. Biomol. Screen. 17, 266),
    with two differences: rings are as wide in log frequency, so that the many high frequencies do not decide
    alone, and the camera's noise is taken off first, which would pass for detail in a field out of focus.

    Args:
        grey: (H, W).

    Returns:
        nan for one value alone.
    """
    ring, corners, window = _rings(*grey.shape)
    power = np.abs(rfft2((grey - grey.mean()) * window)) ** 2  # (H, W // 2 + 1)
    n = np.bincount(ring.ravel())[:-1]
    there = np.flatnonzero(n)
    mean = np.bincount(ring.ravel(), power.ravel())[there] / n[there]  # (R,)
    noise = power[corners].mean()
    if not noise > 0:
        return float("nan")
    signal = np.maximum(mean - noise, 0.05 * noise)
    return float(np.polyfit(there * np.log(_RATIO), np.log(signal), 1)[0])


_RATIO = 1.25  # from one ring to the next


@lru_cache(maxsize=4)
def _rings(H: int, W: int) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float32]]:
    """The ring of each frequency and which are beyond all, (H, W // 2 + 1), and Hann's window, (H, W).

    Rings begin at two periods a side and end at two pixels a period. Without the window the borders of an
    image are a bright cross in its spectrum.
    """
    f = np.hypot(np.fft.fftfreq(H)[:, None], np.fft.rfftfreq(W)[None])
    lowest = 2 / min(H, W)
    n = int(np.log(0.5 / lowest) / np.log(_RATIO))
    ring = np.floor(np.log(np.maximum(f, lowest / 2) / lowest) / np.log(_RATIO)).astype(np.int64)
    ring[(ring < 0) | (ring >= n)] = n
    return ring, f > 0.5, np.outer(np.hanning(H), np.hanning(W)).astype(np.float32)


def sharpness(grey: NDArray[np.float32]) -> float:
    """log10 of the Laplacian's variance over the image's own, both after a Gaussian of one pixel.

    Args:
        grey: (H, W).

    Returns:
        nan for one value alone.
    """
    smooth = gaussian_filter(grey, 1.0)
    variance, edges = float(smooth.var()), float(laplace(smooth).var())
    return float(np.log10(edges / variance)) if variance > 0 and edges > 0 else float("nan")


def saturated_share(grey: NDArray[Any]) -> float:
    """The share of pixels at the largest value, where that is an end of the depth or of a camera (CEILINGS).

    Args:
        grey: (H, W).
    """
    top = grey.max()
    return float((grey == top).mean()) if int(top) in CEILINGS.get(grey.dtype, ()) else 0.0


def foreground(grey: NDArray[np.float32]) -> tuple[float, float]:
    """The share of pixels that stand out from the field's ground by STEPS times its noise, and how far.

    The ground is a quadratic surface, the noise that of pixels against their neighbours (Immerkaer 1996,
    Comput. Vis. Image Underst. 64, 300), both after the same smoothing. An empty field has no such pixels,
    also where its light falls off to the sides; Otsu's threshold would cut its noise in two.

    Args:
        grey: (H, W).

    Returns:
        The share, and the mean of these pixels above that of the others, 0 where one of both has none.
    """
    noise = float(np.median(np.abs(convolve(grey, _NOISE)))) / (0.6745 * 6)
    noise = max(noise, _ROUNDING) * _SMOOTHED
    smooth = gaussian_filter(grey, 1.0)
    out = smooth - _ground(smooth, STEPS * noise) > STEPS * noise
    share = float(out.mean())
    return share, float(grey[out].mean() - grey[~out].mean()) if 0 < share < 1 else 0.0


_ROUNDING = 12**-0.5  # standard deviation of what rounding to whole grey levels adds
_FITS, _LEAST_GROUND = 4, 0.1
_SMOOTHED = 0.5 * np.pi**-0.5  # what a Gaussian of one pixel leaves of white noise


def _ground(grey: NDArray[np.float32], step: float) -> NDArray[np.float32]:
    """The quadratic surface nearest to an image's ground, (H, W): fitted, and again without what is above.

    Args:
        grey: (H, W).
        step: how far above the surface a pixel is no ground.
    """
    y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in grey.shape), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)  # (H, W, 6)
    every = max(1, min(grey.shape) // 64)
    A, values = terms[::every, ::every].reshape(-1, 6), grey[::every, ::every].ravel()
    ground = np.ones(len(values), dtype=bool)
    for _ in range(_FITS):
        found = np.linalg.lstsq(A[ground], values[ground], rcond=None)[0]
        left = ground & (values - A @ found <= step)
        if left.sum() < _LEAST_GROUND * len(values):
            break
        ground = left
    return np.asarray(terms @ found)
