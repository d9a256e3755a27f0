"""Embeddings aligned on control wells, which show the same in every experiment.

All controls count (data/controls.py): of RxRx1's 31 on every plate 30 are positive controls, and the one
untreated well a plate would be too few to estimate a spread from. No label but that of the controls is read.

Letters: n sites, D features, P principal components.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from abra_wilds.errors import InputError

Floats = NDArray[np.floating]
# Of an experiment; RxRx1-WILDS has about 124 in each split of a training experiment, 248 of any other.
LEAST_CONTROLS = 8


def centerscale(features: Floats, batch: NDArray[np.object_], is_control: NDArray[np.bool_]) -> Floats:
    """Each feature minus the mean, over the standard deviation, of its experiment's control sites.

    The deviation divides by the number of sites; a feature that is the same in all of them is only centred.

    Args:
        features: (n, D).
        batch: (n,) the experiment of each site.
        is_control: (n,).
    """
    scaled = np.empty_like(features)
    for name in np.unique(batch):
        rows = batch == name
        scaled[rows] = StandardScaler().fit(features[rows & is_control]).transform(features[rows])
    return scaled


def tvn(features: Floats, batch: NDArray[np.object_], is_control: NDArray[np.bool_]) -> Floats:
    """Typical variation normalisation (Ando et al. 2017, bioRxiv 161422): `centerscale` along control axes.

    The axes are the principal components of the controls of all experiments together, as many as have any
    variance to the precision of float64; each is then brought to the same spread, so that what varies among
    controls counts less. The paper's further step, which aligns each experiment's covariance of controls, is
    left out, as it is in the recipe that Recursion gives with OpenPhenom.

    Args:
        features: (n, D).
        batch: (n,) the experiment of each site.
        is_control: (n,).

    Returns:
        (n, P).
    """
    controls = features[is_control]
    pca = PCA(svd_solver="full").fit(controls)
    s = pca.singular_values_
    P = int((s > s[0] * max(controls.shape) * np.finfo(controls.dtype).eps).sum())
    return centerscale(pca.transform(features)[:, :P], batch, is_control)


POSTPROCESS: dict[str, Callable[[Floats, NDArray[np.object_], NDArray[np.bool_]], Floats]] = {
    "none": lambda features, batch, is_control: features,
    "centerscale": centerscale,
    "tvn": tvn,
}


def postprocessed(
    name: str, features: NDArray[np.float32], batch: NDArray[np.object_], is_control: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Features (n, D) after the step of a name in POSTPROCESS, (n, D) or (n, P), computed in float64."""
    return POSTPROCESS[name](features.astype(np.float64), batch, is_control).astype(np.float32)


def check_controls(name: str, batch: NDArray[np.object_], is_control: NDArray[np.bool_] | None) -> None:
    """Raise where there are too few controls to align on.

    Args:
        name: a key of POSTPROCESS.
        batch: (n,) the experiment of each site.
        is_control: (n,), or None if it is not known.

    Raises:
        InputError: with the numbers.
    """
    if name == "none":
        return
    if is_control is None:
        raise InputError(
            f"--postprocess {name} aligns experiments on their control wells, and nothing says which wells "
            "those are; add the column well_type to the metadata, or leave it out"
        )
    for experiment in np.unique(batch):
        n = int(is_control[batch == experiment].sum())
        if n < LEAST_CONTROLS:
            raise InputError(
                f"--postprocess {name} takes mean and spread of {LEAST_CONTROLS} or more images of control "
                f"wells of each experiment, and {experiment} has {n} in these splits; add splits, or leave "
                "it out"
            )
