"""A simulated screen of three experiments, and faults to plant into its images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

from abra_wilds.analysis.qc.measures import measure
from abra_wilds.simulate import Well, preset, site_picture, wells_table

CHANNELS = ("Hoechst", "ConA", "phalloidin", "SYTO 14", "MitoTracker", "WGA")


@lru_cache
def clean():
    """Images (96, 6, 64, 64), measures, plate of each and batch of each plate: 12 plates of 8 sites."""
    config = preset(
        "mini",
        layout="rxrx1",
        image_size=64,
        classes=20,
        replicates=1,
        train_experiments=(3, 0, 0, 0),
        val_experiments=(0, 0, 0, 0),
        test_experiments=(0, 0, 0, 0),
    )
    wells = wells_table(config)
    wells = wells[wells.groupby(["experiment", "plate"]).cumcount() < 8]
    rows = wells[list(Well._fields)].itertuples(index=False)
    x = np.array([site_picture(config, Well(*row), 1) for row in rows])
    plate = wells.groupby(["experiment", "plate"], sort=False).ngroup().to_numpy()
    batch = wells.drop_duplicates(["experiment", "plate"]).groupby("experiment").ngroup().to_numpy()
    return x, measured(x), plate, batch


def measured(x):
    """The measures of images."""
    return np.array([measure(image) for image in x])


def grey(x):
    """Whole levels of 8 bits."""
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def blurred(x):
    """Out of focus by two pixels, all channels."""
    return grey(gaussian_filter(x.astype(float), (0, 0, 2, 2)))


def saturated(x):
    """Channel 2 with so much light that a tenth of its pixels is at the end."""
    y = x.astype(float)
    y[:, 2] *= 255 / np.maximum(np.percentile(y[:, 2], 90, axis=(1, 2), keepdims=True), 1)
    return grey(y)


def empty(x):
    """No cells: the ground with light that falls off to the sides, and noise."""
    t = np.linspace(-1, 1, x.shape[-1])
    light = 6 - 2 * (t[:, None] ** 2 + t**2)
    return grey(light + np.random.default_rng(0).standard_normal(x.shape))


def blank(x):
    """Channel 3 without light."""
    y = x.copy()
    y[:, 3] = grey(3 + np.random.default_rng(1).standard_normal(y[:, 3].shape))
    return y


def half_stained(x):
    """Half the light of every stain above its ground."""
    ground = np.percentile(x, 1, axis=(2, 3), keepdims=True)
    return grey((x - ground) / 2 + ground + 0.2 * np.random.default_rng(2).standard_normal(x.shape))
