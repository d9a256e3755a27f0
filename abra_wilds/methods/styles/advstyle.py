"""AdvStyle, adversarial style augmentation (Zhang et al., arXiv 2301.12643).

At each insertion point a draw per pass decides: the map stays, its statistics are shifted by noise times
learned magnitudes K, or they are resampled as in DSU. Read for facts: YBZh/AdvStyle 6ffffe0
(dassl/modeling/ops/advstyle.py). Differences:

- The reference keeps K in the model's optimiser with a gradient reversal that multiplies by -w. There
  weight decay pulls K to 0, momentum moves it, and an optimiser that divides by the gradient's size, such as
  Adam, forgets w. Here K are buffers and ascend by w times a learning rate times their gradient. The engine's
  own backward pass leaves that gradient on the copies of K that the noise was multiplied by, and K moves
  right after theta.
- The alternative trainer (three adversarial steps, then one of the model) is left out.
- That K has had its first value from a batch is saved with it; the reference starts again after loading.
- The draws come from torch's generators; a map of one position and a batch of one image have variance 0
  instead of none. The per-image variance is the unbiased one, as there; ABRA's is biased.

The RxRx1 settings of the ABRA paper's rows are unpublished: these are the released ones under that
paper's budget ("our settings"). Its row with test-time adaptation is this method on batches of one plate
(`--train_loader plate`) with statistics of the plate at test time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from abra_wilds.config.fields import option, require
from abra_wilds.dist import means_across_ranks
from abra_wilds.functional.losses import cross_entropies
from abra_wilds.functional.stats import batch_spread, instance_stats, restyle_images
from abra_wilds.methods.base import Method
from abra_wilds.methods.styles.taps import MuSigma, TapConfig, in_order, noise_like, tap, uniform_draws
from abra_wilds.nets.staged import StagedNet
from abra_wilds.types import Batch, DataInfo, StepOutput


@dataclass(frozen=True)
class AdvStyleConfig(TapConfig):
    """Where and how often statistics move, and how fast K ascends; defaults are the released code's."""

    p_adv: float = option(1 / 3, "probability that an insertion point shifts by K", at_least=0, at_most=1)
    p_dsu: float = option(
        1 / 3, "probability that an insertion point resamples as DSU does", at_least=0, at_most=1
    )
    w: float = option(10.0, "factor of the ascent of K, the strength of the gradient reversal", at_least=0)
    k_lr: float | None = option(
        None, "learning rate of K; unset: theta's current learning rate", kind=float, at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        most = f"in [0, 1 - p_adv] = [0, {1 - self.p_adv:g}]"
        rounding = 1e-9
        require(self.p_dsu <= 1 - self.p_adv + rounding, "advstyle_p_dsu", most, self.p_dsu)

    def idle(self, mix: str) -> dict[str, str]:
        """Flags of an ascent, or of shifts, that never happen."""
        found = {} if self.w else {"advstyle_k_lr": "--advstyle_w above 0"}
        if not self.p_adv:
            found |= {f"advstyle_{name}": "--advstyle_p_adv above 0" for name in ("w", "k_lr")}
        if not self.p_adv and not self.p_dsu:
            needs = "--advstyle_p_adv or --advstyle_p_dsu above 0"
            found |= {f"advstyle_{name}": needs for name in ("at", "eps")}
        return found


class Magnitudes(nn.Module):
    """How far one insertion point's channel statistics are shifted.

    Attributes:
        K_mu: (C,) magnitudes for the mean; 0.1 until the first batch gives them a value.
        K_sigma: (C,) magnitudes for the deviation.
        seen: () int64, batches that were shifted by K.
    """

    K_mu: Tensor
    K_sigma: Tensor
    seen: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("K_mu", torch.full((channels,), 0.1))
        self.register_buffer("K_sigma", torch.full((channels,), 0.1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.kept: list[MuSigma] = []

    @torch.no_grad()
    def observe(self, spread: MuSigma) -> None:
        """Take the first batch's spreads of mean and deviation, (C,) each, as the first value of K.

        Of several processes it is the mean of theirs. Written without a branch on `seen`, which would make
        the host wait for the device.
        """
        for K, S in zip((self.K_mu, self.K_sigma), means_across_ranks(spread), strict=True):
            K.copy_(torch.where(self.seen == 0, S, K))
        self.seen.add_(1)

    def leaves(self) -> MuSigma:
        """Copies of K_mu and K_sigma, kept for `ascend` where a backward pass can reach them."""
        pair = self.K_mu.clone(), self.K_sigma.clone()
        if torch.is_grad_enabled():
            self.kept.append((pair[0].requires_grad_(), pair[1].requires_grad_()))
        return pair

    @torch.no_grad()
    def gradient(self) -> MuSigma:
        """That of K, (C,) each: the sum over the passes since the last call.

        A copy without a gradient, whose loss was never differentiated, counts as 0.
        """
        total = torch.zeros_like(self.K_mu), torch.zeros_like(self.K_sigma)
        for pair in self.kept:
            for g, leaf in zip(total, pair, strict=True):
                if leaf.grad is not None:
                    g.add_(leaf.grad)
        self.kept.clear()
        return total

    @torch.no_grad()
    def ascend(self, gradient: Sequence[Tensor], step_size: float) -> None:
        """K <- K + step_size * gradient."""
        for K, g in zip((self.K_mu, self.K_sigma), gradient, strict=True):
            K.add_(g, alpha=step_size)


class AdvStyle(Method):
    """Cross-entropy on features whose channel statistics are shifted as far as hurts it."""

    name = "AdvStyle"
    plain_forward = False
    preset: ClassVar[str] = "paper"
    Config = AdvStyleConfig
    cfg: AdvStyleConfig

    def __init__(self, net: StagedNet, info: DataInfo, cfg: AdvStyleConfig):
        super().__init__(net, info, cfg)
        self.at = in_order(cfg.at)
        self.magnitudes = nn.ModuleDict({point: Magnitudes(net.channels_at(point)) for point in self.at})

    @property
    def scalable(self) -> bool:
        """No: K ascends by what theta's backward pass leaves."""
        return False

    def forward(self, batch: Batch) -> StepOutput:
        """Mean cross-entropy; the logits are those of shifted features. K ascends in `after_step`."""
        taps = {point: tap(partial(self.shift, point, by_K)) for point, by_K in self.active().items()}
        f = self.tapped_features(batch.x, taps)  # (N, D)
        logits = self.classify(f)  # (N, O)
        return StepOutput(cross_entropies(logits, batch.target).mean(), logits, self.summary())

    def active(self) -> dict[str, bool]:
        """The insertion points that act in this pass, and whether by K, not as DSU; none in evaluation."""
        c = self.cfg
        draws = uniform_draws(len(self.at), common=True) if self.training else []  # K is all processes'
        acting = zip(self.at, draws, strict=False)
        return {point: u < c.p_adv for point, u in acting if u < c.p_adv + c.p_dsu}

    def shift(self, point: str, by_K: bool, X: Tensor) -> Tensor:
        """The map (N, C, h, w) with statistics moved by noise times K, or times the batch's spread.

        Gradients pass through every statistic.
        """
        mu, sigma = instance_stats(X, self.cfg.eps, correction=1)  # (N, C)
        scale = batch_spread(mu, self.cfg.eps), batch_spread(sigma, self.cfg.eps)  # (C,)
        if by_K:
            self.K(point).observe(scale)
            scale = self.K(point).leaves()
        e_mu, e_sigma = self.draw(mu)
        return restyle_images(X, mu, sigma, e_mu * scale[0], e_sigma * scale[1])

    def K(self, point: str) -> Magnitudes:
        """The magnitudes of an insertion point."""
        return cast(Magnitudes, self.magnitudes[point])

    def draw(self, mu: Tensor) -> MuSigma:
        """Standard normal noise for mean and deviation, (N, C) each."""
        return noise_like(mu)

    def after_step(self) -> None:
        """K ascends along the gradient that theta's backward pass left, at every insertion point."""
        found = means_across_ranks([g for point in self.at for g in self.K(point).gradient()])
        for point, g_mu, g_sigma in zip(self.at, found[::2], found[1::2], strict=True):
            self.K(point).ascend((g_mu, g_sigma), self.step_size)

    @property
    def step_size(self) -> float:
        """Ascent step of K: w times its learning rate."""
        if self.cfg.k_lr is not None:
            return self.cfg.w * self.cfg.k_lr
        return self.cfg.w * self.context.lr

    def summary(self) -> dict[str, Tensor]:
        """Mean size of all K, () and detached, on steps whose logs will be read."""
        if not self.context.log:
            return {}
        return {
            "K_mean": torch.cat([K for p in self.at for K in self.K(p).buffers() if K.dim()]).abs().mean()
        }
