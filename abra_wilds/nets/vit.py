"""A vision transformer of timm's in the five stages of a StagedNet; tokens travel as (N, C, T, 1).

In that shape a mean over (2, 3) is a mean over tokens: what methods do to feature maps, they do to tokens.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from abra_wilds.config.data import LEAST_SIDE
from abra_wilds.errors import InputError
from abra_wilds.nets.staged import STAGES, StagedNet


class PatchStem(nn.Module):
    """Patches, class token and registers with their positions: (N, C_in, H, W) -> (N, C, T, 1).

    The tokens come as: class token (if the network has one), other prefix tokens, patches row by row.
    Positions are resampled to the image's grid, so every H and W that the patch divides will do.

    Attributes:
        patch: height and width of a patch.
        prefix_tokens: tokens before those of the patches.
    """

    def __init__(self, vit: Any):
        super().__init__()
        self.patch: tuple[int, int] = tuple(vit.patch_embed.patch_size)
        self.prefix_tokens: int = vit.num_prefix_tokens
        # What is left of the network without them ends where the blocks would begin.
        vit.blocks = vit.norm = vit.fc_norm = vit.attn_pool = vit.head = None
        self.vit = vit

    def forward(self, x: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
        """Tokens, of which those of masked patches hold their position alone, on top of the mask token.

        Masking as in iBOT (arXiv 2111.07832) and DINOv2: after the patches are embedded, before positions are
        added.

        Args:
            x: (N, C_in, H, W).
            mask: (N, H / patch, W / patch) bool, true where a patch is hidden.
            mask_token: (C,), what stands in for a hidden patch; needed with a mask.

        Raises:
            InputError: if the patch does not divide the image.
        """
        (H, W), (h, w) = x.shape[-2:], self.patch
        if H % h or W % w:
            near = " ".join(str(max(side // p, -(-LEAST_SIDE // p)) * p) for side, p in ((H, h), (W, w)))
            raise InputError(
                f"images of {H} x {W} pixels cannot be cut into this model's patches of {h} x {w}; resize "
                f"them, for instance by --target_resolution {near}, or choose another --model"
            )
        patches: Tensor = self.vit.patch_embed(x)  # (N, H / patch, W / patch, C)
        if mask is not None and mask_token is not None:
            patches = torch.where(mask[..., None], mask_token.to(patches.dtype), patches)
        tokens: Tensor = self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(patches)))
        return as_map(tokens)


class TokenBlocks(nn.Module):
    """Some transformer blocks in a row, and what norm follows them: (N, C, T, 1) -> (N, C, T, 1)."""

    def __init__(self, blocks: nn.Sequential, norm: nn.Module | None = None):
        super().__init__()
        self.blocks = blocks
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        """The tokens after the blocks."""
        return as_map(self.norm(self.blocks(x.squeeze(3).transpose(1, 2))))


def as_map(tokens: Tensor) -> Tensor:
    """(N, T, C) -> (N, C, T, 1), without a copy."""
    return tokens.transpose(1, 2).unsqueeze(3)


def staged_vit(vit: Any) -> StagedNet:
    """The network in five stages; res1..res4 hold a quarter of the blocks each, res4 the final norm too.

    After res4, `x[:, :, 0, 0]` is the class token where the network has one, and
    `x[:, :, prefix_tokens:, 0]` are the patches, with the stem's `prefix_tokens`.

    Args:
        vit: a VisionTransformer of timm's, built with dynamic_img_size=True; it is taken apart.

    Raises:
        InputError: if it has fewer than four blocks.
    """
    blocks, norm, C = vit.blocks, vit.norm, int(vit.embed_dim)
    if len(blocks) < 4:
        raise InputError(
            f"a transformer of {len(blocks)} blocks has too few for res1 to res4; choose one of 4 or more"
        )
    cuts = [round(len(blocks) * k / 4) for k in range(5)]
    parts = [TokenBlocks(blocks[a:b], norm if b == cuts[-1] else None) for a, b in pairwise(cuts)]
    class_token = vit.cls_token is not None
    stages = dict(zip(STAGES, [PatchStem(vit), *parts], strict=True))
    return StagedNet(stages, dict.fromkeys(STAGES, C), class_token=class_token)
