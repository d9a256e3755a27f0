"""MixStyle, domain generalisation by mixed feature statistics (Zhou et al., ICLR 2021; IJCV 2023).

arXiv 2104.02008. Not a row of the ABRA paper, but the ancestor of DSU and AdvStyle, run under its budget
("our settings"). Read for facts: KaiyangZhou/mixstyle-release 16f7cf1 (reid/models/mixstyle.py). Differences:

- "crossdomain" takes any batch of several bio-batches and draws for each image a partner, with replacement,
  from the images of the others, where the reference swaps the two halves of a batch of two domains. A batch
  of a single bio-batch mixes at random.
- Coins, permutations and Beta draws come from torch's generators, the last two on the device.
- A map of one position has variance 0 instead of none. The per-image variance is the unbiased one, as there;
  ABRA's is biased.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from abra_wilds.config.fields import option
from abra_wilds.functional.losses import cross_entropies
from abra_wilds.functional.stats import instance_stats, restyle_images
from abra_wilds.methods.base import Method
from abra_wilds.methods.styles.taps import MuSigma, TapConfig, in_order, tap, uniform_draws
from abra_wilds.nets.staged import TAP_POINTS, StagedNet
from abra_wilds.types import Batch, DataInfo, StepOutput


@dataclass(frozen=True)
class MixStyleConfig(TapConfig):
    """Where, how often and with whom statistics are mixed; defaults are those of the released code."""

    at: tuple[str, ...] = option(
        ("res1", "res2"),
        "insertion points; the authors advise against res4",
        choices=TAP_POINTS,
        distinct=True,
    )
    p: float = option(0.5, "probability that an insertion point acts on a batch", at_least=0, at_most=1)
    alpha: float = option(0.1, "shares are drawn from Beta(alpha, alpha)", above=0)
    mix: str = option(
        "random",
        "whose statistics are mixed in: any image's of the batch, or one's of another bio-batch; a batch of "
        "a single bio-batch always mixes at random",
        choices=("random", "crossdomain"),
    )

    def idle(self, mix: str) -> dict[str, str]:
        """Flags of a mixture that never happens."""
        names = ("at", "alpha", "mix", "eps")
        return {} if self.p else {f"mixstyle_{name}": "--mixstyle_p above 0" for name in names}


def partners_elsewhere(g: Tensor) -> Tensor:
    """For each image a uniformly drawn one of another bio-batch, (N,) int64.

    Args:
        g: (N,) bio-batch ids, at least two of them different.
    """
    scores = torch.rand(len(g), len(g), device=g.device).masked_fill_(g[:, None] == g, -1.0)  # (N, N)
    return scores.argmax(1)


class MixStyle(Method):
    """Cross-entropy on features whose channel statistics are mixed with those of another image."""

    name = "MixStyle"
    plain_forward = False
    preset: ClassVar[str] = "paper"
    Config = MixStyleConfig
    cfg: MixStyleConfig

    def __init__(self, net: StagedNet, info: DataInfo, cfg: MixStyleConfig):
        super().__init__(net, info, cfg)
        self.at = in_order(cfg.at)
        for point in self.at:
            net.channels_at(point)  # refuses what the backbone lacks

    def forward(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy; the logits are those of mixed features."""
        taps = {point: tap(partial(self.mixed, batch)) for point in self.active()}
        f = self.tapped_features(batch.x, taps)  # (N, D)
        logits = self.classify(f)  # (N, O)
        return StepOutput(cross_entropies(logits, batch.target).mean(), logits)

    def active(self) -> list[str]:
        """The insertion points that act in this pass: none in evaluation, else by a coin each."""
        draws = uniform_draws(len(self.at)) if self.training else []
        return [point for point, u in zip(self.at, draws, strict=False) if u < self.cfg.p]

    def mixed(self, batch: Batch, X: Tensor) -> Tensor:
        """The map (N, C, h, w) with statistics between each image's own and its partner's, all constants."""
        with torch.no_grad():
            mu, sigma = instance_stats(X, self.cfg.eps, correction=1)  # (N, C)
            lam, partner = self.draw(batch, mu)  # (N, 1), (N,)
            d_mu, d_sigma = ((1 - lam) * (s[partner] - s) for s in (mu, sigma))
        return restyle_images(X, mu, sigma, d_mu, d_sigma)

    def draw(self, batch: Batch, mu: Tensor) -> MuSigma:
        """Shares lambda of the image itself, (N, 1), and the rows of the partners, (N,)."""
        N = len(batch)
        alpha = mu.new_full((2, N, 1), self.cfg.alpha)
        # Two gammas make a Beta; torch's own Beta cannot be drawn on tensors without storage.
        x, y = torch.distributions.Gamma(alpha, torch.ones_like(alpha), validate_args=False).sample()
        if self.cfg.mix == "crossdomain" and len(batch.groups) > 1:
            return x / (x + y), partners_elsewhere(batch.g)
        return x / (x + y), torch.randperm(N, device=mu.device)
