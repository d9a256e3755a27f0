"""A small Bayesian convolutional network that maps images to images (ABA, arXiv 2307.09520).

Its weights are no parameters: they are drawn for a batch and forgotten, so everything here is a function
of one tensor phi (2, P), whose rows are the means m and the rho of standard deviations softplus(rho).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from abra_wilds.functional.bayes import gaussian_kl
from abra_wilds.functional.stats import instance_stats

KERNELS = (1, 3, 5, 7)
WIDTH = 18  # channels between the layers
SLOPE = 0.2  # of the leaky ReLU
M0, RHO0 = (0.0, 0.1), (-1.0, 0.1)  # mean and standard deviation of fresh m and rho


@dataclass(frozen=True)
class Augmenter:
    """The architecture that one batch drew.

    Attributes:
        channels: C of the images.
        kernels: side of each layer's kernel; the last layer has no bias and no activation.
    """

    channels: int
    kernels: tuple[int, ...]

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """(C_out, C_in, k, k) of each layer."""
        widths = [self.channels, *[WIDTH] * (len(self.kernels) - 1), self.channels]
        return [(o, i, k, k) for o, i, k in zip(widths[1:], widths, self.kernels, strict=False)]

    @property
    def sizes(self) -> list[int]:
        """Weights and biases, one after the other, of each layer; the last has weights alone."""
        found = [n for shape in self.shapes for n in (math.prod(shape), shape[0])]
        return found[:-1]

    def fresh(self, like: Tensor) -> Tensor:
        """A posterior phi (2, P) drawn from N(0, 0.1^2) and N(-1, 0.1^2); type and device of `like`."""
        noise = torch.randn(2, sum(self.sizes), dtype=like.dtype, device=like.device)
        return torch.stack([M0[0] + M0[1] * noise[0], RHO0[0] + RHO0[1] * noise[1]])

    def kl(self, phi: Tensor) -> Tensor:
        """KL to the prior N(0, 1 / (3 k^2)): mean over weights plus mean over biases, summed over layers."""
        total = phi.new_zeros(())
        for i, (m, rho) in enumerate(torch.split(phi, self.sizes, dim=1)):
            total = total + gaussian_kl(m, F.softplus(rho), 1 / math.sqrt(3 * self.kernels[i // 2] ** 2))
        return total

    def __call__(self, x: Tensor, w: Tensor) -> Tensor:
        """Images through the layers, standardised again per image and channel.

        Args:
            x: (N, C, H, W), standardised.
            w: (P,) weights.
        """
        pieces = torch.split(w, self.sizes)
        for i, (shape, k) in enumerate(zip(self.shapes, self.kernels, strict=True)):
            last = i == len(self.kernels) - 1
            x = F.conv2d(x, pieces[2 * i].view(shape), None if last else pieces[2 * i + 1], padding=k // 2)
            x = x if last else F.leaky_relu(x, SLOPE)
        mean, std = instance_stats(x)  # (N, C) each
        return (x - mean[..., None, None]) / std[..., None, None]


def draw_augmenter(channels: int, depth: int) -> Augmenter:
    """Kernel sizes drawn uniformly for `depth` hidden layers and the output layer, on the host."""
    drawn = torch.randint(len(KERNELS), (depth + 1,)).tolist()
    return Augmenter(channels, tuple(KERNELS[i] for i in drawn))
