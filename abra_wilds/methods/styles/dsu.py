"""DSU, uncertainty modelling for out-of-distribution generalisation (Li et al., ICLR 2022, arXiv 2202.03958).

Read for facts: lixiaotong97/DSU 82a1de0 (dsu.py). Differences: the coins come from torch's generator instead
of NumPy's; a map of one position and a batch of one image have variance 0 instead of none; `factor` can be
set. The per-image variance is the unbiased one, as there; ABRA's is biased. The RxRx1 settings of the
ABRA paper's row are unpublished: these are DSU's own under that paper's budget ("our settings").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from abra_wilds.config.fields import option
from abra_wilds.functional.losses import cross_entropies
from abra_wilds.functional.stats import batch_spread, instance_stats, restyle_images
from abra_wilds.methods.base import Method
from abra_wilds.methods.styles.taps import MuSigma, TapConfig, in_order, noise_like, tap, uniform_draws
from abra_wilds.nets.staged import StagedNet
from abra_wilds.types import Batch, DataInfo, StepOutput


@dataclass(frozen=True)
class DSUConfig(TapConfig):
    """Where, how often and how strongly statistics are resampled; defaults are those of the released code."""

    p: float = option(0.5, "probability that an insertion point acts on a batch", at_least=0, at_most=1)
    factor: float = option(1.0, "factor on the spread of mean and deviation over the batch", at_least=0)

    def idle(self, mix: str) -> dict[str, str]:
        """Flags of a resampling that never happens."""
        return {} if self.p else {f"dsu_{name}": "--dsu_p above 0" for name in ("at", "factor", "eps")}


class DSU(Method):
    """Cross-entropy on features whose channel statistics are resampled around those of each image."""

    name = "DSU"
    plain_forward = False
    preset: ClassVar[str] = "paper"
    Config = DSUConfig
    cfg: DSUConfig

    def __init__(self, net: StagedNet, info: DataInfo, cfg: DSUConfig):
        super().__init__(net, info, cfg)
        self.at = in_order(cfg.at)
        for point in self.at:
            net.channels_at(point)  # refuses what the backbone lacks

    def forward(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy; the logits are those of resampled features."""
        taps = {point: tap(self.resample) for point in self.active()}
        f = self.tapped_features(batch.x, taps)  # (N, D)
        logits = self.classify(f)  # (N, O)
        return StepOutput(cross_entropies(logits, batch.target).mean(), logits)

    def active(self) -> list[str]:
        """The insertion points that act in this pass: none in evaluation, else by a coin each."""
        draws = uniform_draws(len(self.at)) if self.training else []
        return [point for point, u in zip(self.at, draws, strict=False) if u < self.cfg.p]

    def resample(self, X: Tensor) -> Tensor:
        """The map (N, C, h, w) with statistics from normals around its own, as wide as the batch's spread.

        Gradients pass through every statistic.
        """
        c = self.cfg
        mu, sigma = instance_stats(X, c.eps, correction=1)  # (N, C)
        e_mu, e_sigma = self.draw(mu)
        d_mu = c.factor * e_mu * batch_spread(mu, c.eps)
        d_sigma = c.factor * e_sigma * batch_spread(sigma, c.eps)
        return restyle_images(X, mu, sigma, d_mu, d_sigma)

    def draw(self, mu: Tensor) -> MuSigma:
        """Standard normal noise for mean and deviation, (N, C) each."""
        return noise_like(mu)
