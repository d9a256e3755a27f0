"""Where latents of an image enter its classifier (Wu et al. 2022, arXiv 2203.00332)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NoiseInjection(nn.Module):
    """A map added to features with one learned weight, which starts at 0: at first the identity."""

    def __init__(self, dropout: float):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.dropout = nn.Dropout(dropout)

    def forward(self, X: Tensor, noise: Tensor) -> Tensor:
        """X + Dropout(w noise), in X's type.

        Args:
            X: (N, C, h, w).
            noise: (N, 1, h', w'), averaged to h x w, or repeated where it is smaller.
        """
        noise = F.interpolate(noise, size=(X.shape[2], X.shape[3]), mode="area")
        added: Tensor = self.dropout(self.w * noise)
        return X + added.to(dtype=X.dtype)


class StyleInjection(nn.Module):
    """Codes as one vector beside the pooled features: Conv1d - BN - LeakyReLU - Dropout."""

    def __init__(self, codes: int, dropout: float):
        super().__init__()
        # A bias would be taken away again by the batch norm.
        self.conv = nn.Conv1d(codes, 1, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm1d(1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, codes: Tensor) -> Tensor:
        """(N, D_code) from codes (N, codes, D_code)."""
        style: Tensor = self.dropout(F.leaky_relu(self.bn(self.conv(codes))))
        return style.squeeze(1)
