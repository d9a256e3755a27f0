"""Single planes of images by reference, such as `a.png`, `a.tif#plane=3` or `plate.zarr/B/03/0#c=1`.

Letters: C H W of a site.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from abra_wilds.errors import InputError


def read_plane(reference: str) -> NDArray[Any]:
    """One plane, (H, W) uint8 or uint16.

    Raises:
        InputError: if it is missing, damaged, or of another kind.
    """
    try:
        with Image.open(Path(reference)) as image:
            mode, grey = image.mode, np.array(image)
    except Exception as fault:  # a damaged file is answered with many kinds of exception
        raise InputError(f"{reference} cannot be read ({fault}); restore this image") from fault
    if mode != "L":
        raise InputError(f"{reference} has pixels of mode {mode}, and a channel is grey; convert it")
    return grey


def read_site(references: Sequence[str], illumination: Sequence[str] | None = None) -> Tensor:
    """One site from the planes of its channels, (C, H, W) uint8 or uint16.

    Args:
        references: (C) one a channel.
        illumination: (C) illumination functions that are divided out, "" for none.

    Raises:
        InputError: as `read_plane`, or for planes of different size or depth.
    """
    planes = [read_plane(reference) for reference in references]
    for reference, plane in zip(references, planes, strict=True):
        if (plane.shape, plane.dtype) != (planes[0].shape, planes[0].dtype):
            raise InputError(
                f"{reference} is {plane.shape[0]} x {plane.shape[1]} {plane.dtype} and {references[0]} is "
                f"{planes[0].shape[0]} x {planes[0].shape[1]} {planes[0].dtype}; the channels of a site must "
                "be alike"
            )
    return torch.from_numpy(np.stack(planes))
