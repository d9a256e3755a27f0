"""CutMix inside a bio-batch (Yun et al., ICCV 2019), one box for the whole batch.

Letters: N rows of a batch, C H W of an image.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from abra_wilds.types import Batch, Target


def cutmix(batch: Batch, rng: np.random.Generator, alpha: float = 1.0, prob: float = 1.0) -> Batch:
    """Paste the same box of another image of the bio-batch into each image, and mix the targets by area.

    All draws are made on the host, so that a batch on a GPU causes no synchronisation. The weight is that of
    the box after clipping to the image, so it is exactly the share of own pixels. A partner may be the image
    itself.

    Args:
        batch: unmixed; x (N, C, H, W). It is left as it is.
        rng: the only source of randomness.
        alpha: of Beta(alpha, alpha), from which the share of own pixels is drawn before clipping; > 0.
        prob: probability that the batch is mixed at all.
    """
    H, W = batch.x.shape[-2:]
    mixed = rng.random() < prob
    top, bottom, left, right = draw_box(rng, rng.beta(alpha, alpha), H, W)
    area = (bottom - top) * (right - left)
    if not mixed or area == 0:
        return batch
    partner = draw_partners(rng, batch.groups)  # (N,)
    x = batch.x.clone()
    x[..., top:bottom, left:right] = batch.x[..., top:bottom, left:right].index_select(0, partner)
    y = batch.target.y
    return replace(batch, x=x, target=Target(y, y[partner], 1 - area / (H * W)))


def draw_box(rng: np.random.Generator, lam: float, H: int, W: int) -> tuple[int, int, int, int]:
    """A box of sqrt(1 - lam) of each side around a uniform centre, clipped: (top, bottom, left, right)."""
    share = np.sqrt(1 - lam)
    h, w = int(H * share), int(W * share)
    top, left = int(rng.integers(H)) - h // 2, int(rng.integers(W)) - w // 2
    return max(top, 0), min(top + h, H), max(left, 0), min(left + w, W)


def draw_partners(rng: np.random.Generator, groups: tuple[Tensor, ...]) -> Tensor:
    """A permutation of the rows within each bio-batch: (N,) int64, on the device of the groups.

    Args:
        rng: the only source of randomness.
        groups: the rows of each bio-batch; together every row once.
    """
    ends = np.cumsum([len(rows) for rows in groups])
    within = np.concatenate(
        [end - len(rows) + rng.permutation(len(rows)) for rows, end in zip(groups, ends, strict=True)]
    )
    order = torch.cat(groups)
    shuffled = order[torch.from_numpy(within).to(order.device, non_blocking=True)]
    return torch.empty_like(order).scatter_(0, order, shuffled)
