"""CutMix (Yun et al., ICCV 2019) with one box for the whole batch; the kinds differ in who is whose partner.

Letters: N rows of a batch, C H W of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from abra_wilds.types import Batch, Target


def mix(batch: Batch, kind: str, rng: np.random.Generator, alpha: float = 1.0, prob: float = 1.0) -> Batch:
    """Paste the same box of a partner into each image, and mix the targets by area.

    All draws are made on the host, so that a batch on a GPU causes no synchronisation. The weight is that of
    the box after clipping to the image, so it is exactly the share of own pixels. A drawn partner may be the
    image itself.

    Args:
        batch: unmixed; x (N, C, H, W). It is left as it is.
        kind: "none" returns the batch; else a key of PARTNERS. Partners of "lisa" are of one class, as the
            pairs loader gives them, and the target stays what it is.
        rng: the only source of randomness.
        alpha: of Beta(alpha, alpha), from which the share of own pixels is drawn before clipping; > 0.
        prob: probability that the batch is mixed at all.
    """
    if kind == "none":
        return batch
    H, W = batch.x.shape[-2:]
    mixed = rng.random() < prob
    top, bottom, left, right = draw_box(rng, rng.beta(alpha, alpha), H, W)
    area = (bottom - top) * (right - left)
    if not mixed or area == 0:
        return batch
    partner = PARTNERS[kind](rng, batch)  # (N,)
    x = batch.x.clone()
    x[..., top:bottom, left:right] = batch.x[..., top:bottom, left:right].index_select(0, partner)
    if kind == "lisa":
        return replace(batch, x=x)
    y = batch.target.y
    return replace(batch, x=x, target=Target(y, y[partner], 1 - area / (H * W)))


def draw_box(rng: np.random.Generator, lam: float, H: int, W: int) -> tuple[int, int, int, int]:
    """A box of sqrt(1 - lam) of each side around a uniform centre, clipped: (top, bottom, left, right)."""
    share = np.sqrt(1 - lam)
    h, w = int(H * share), int(W * share)
    top, left = int(rng.integers(H)) - h // 2, int(rng.integers(W)) - w // 2
    return max(top, 0), min(top + h, H), max(left, 0), min(left + w, W)


def inside_groups(rng: np.random.Generator, batch: Batch) -> Tensor:
    """A permutation of the rows within each bio-batch: (N,) int64, on the batch's device."""
    ends = np.cumsum([len(rows) for rows in batch.groups])
    within = np.concatenate(
        [end - len(rows) + rng.permutation(len(rows)) for rows, end in zip(batch.groups, ends, strict=True)]
    )
    order = torch.cat(batch.groups)
    shuffled = order[torch.from_numpy(within).to(order.device, non_blocking=True)]
    return torch.empty_like(order).scatter_(0, order, shuffled)


def across_batch(rng: np.random.Generator, batch: Batch) -> Tensor:
    """A permutation of all rows (Wu et al., arXiv 2203.00332): (N,) int64, on the batch's device."""
    return torch.from_numpy(rng.permutation(len(batch))).to(batch.x.device, non_blocking=True)


def other_half(rng: np.random.Generator, batch: Batch) -> Tensor:
    """The halves of the pairs loader's batch exchanged: (N,) int64, N even; draws nothing."""
    return torch.arange(len(batch), device=batch.x.device).roll(len(batch) // 2)


PARTNERS: dict[str, Callable[[np.random.Generator, Batch], Tensor]] = {
    "cutmix": inside_groups,
    "cutmix_any": across_batch,
    "lisa": other_half,
}
