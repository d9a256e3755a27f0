"""Linear evaluation of frozen features, which all self-supervised methods share.

The paper does not say how its self-supervised rows were probed. These are SimCLR's settings as in lightly's
benchmarks (lightly-ai/lightly e8d317f): 90 epochs of SGD with momentum 0.9, no weight decay, a rate of 0.1
* batch / 256 that falls along a cosine. Differences, our settings: features are cached, so the images are
not augmented; they are standardised; the rate is chosen on WILDS' val from a grid around 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from abra_wilds.config.fields import option
from abra_wilds.methods.base import MethodConfig
from abra_wilds.types import HeadPhase


@dataclass(frozen=True)
class ProbeConfig(MethodConfig):
    """How the linear classifier on frozen features is trained, and how strongly views are jittered."""

    probe_epochs: int = option(90, "passes over the frozen features", at_least=1)
    probe_batch_size: int = option(256, "features per batch of the linear evaluation", at_least=1)
    probe_rates: tuple[float, ...] = option(
        (0.01, 0.03, 0.1, 0.3, 1.0),
        "learning rates to choose from on val, each for a batch of 256",
        above=0,
    )
    jitter: float = option(
        0.2,
        "spread of each view's random gain and offset per channel, in standard deviations (our setting)",
        at_least=0,
    )

    def idle(self, mix: str) -> dict[str, str]:
        """Augmentation, whose place the views take."""
        return {"transform": "methods that learn from augmented images, where this one makes views"}


def linear_evaluation(cfg: ProbeConfig) -> HeadPhase:
    """The head phase of a configuration."""
    scale = cfg.probe_batch_size / 256
    return HeadPhase(
        epochs=cfg.probe_epochs,
        batch_size=cfg.probe_batch_size,
        optimizer="SGD",
        rates=tuple(rate * scale for rate in cfg.probe_rates),
        weight_decay=0.0,
        standardise=True,
    )
