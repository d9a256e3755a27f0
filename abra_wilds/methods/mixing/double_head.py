"""Hyper-parameters that ERM-CutMix and IID-lite share: a neck, and cross-entropy with ArcFace after it."""

from __future__ import annotations

from dataclasses import dataclass

from abra_wilds.config.fields import option
from abra_wilds.methods.base import MethodConfig


@dataclass(frozen=True)
class DoubleHeadConfig(MethodConfig):
    """The values of Wu et al.'s command for RxRx1 (README of CTPLab/IID_representation_learning b9dc135)."""

    k: float = option(0.15, "weight of ArcFace, which is halved, against cross-entropy", at_least=0, below=1)
    margin: float = option(0.5, "ArcFace margin m in radians", at_least=0, at_most=3.1415)
    scale: float = option(30.0, "ArcFace scale s", above=0)
    width: int = option(1024, "width E of the embedding", at_least=1)
    bn_momentum: float = option(
        0.05, "weight of the newest batch in running batch-norm statistics", above=0, at_most=1
    )

    def idle(self, mix: str) -> dict[str, str]:
        """Flags of an ArcFace term of no weight."""
        flags = () if self.k else ("margin", "scale")
        return {f"{self.prefix}{name}": f"--{self.prefix}k above 0" for name in flags}
