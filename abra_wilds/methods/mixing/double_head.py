"""Hyper-parameters that ERM-CutMix and IID-lite share: a neck, and cross-entropy with ArcFace behind it."""

from __future__ import annotations

from dataclasses import dataclass

from abra_wilds.config.fields import method_option, require
from abra_wilds.methods.base import MethodConfig


@dataclass(frozen=True)
class DoubleHeadConfig(MethodConfig):
    """The values of Wu et al.'s command for RxRx1 (README of CTPLab/IID_representation_learning b9dc135)."""

    k: float = method_option(0.15, "weight of ArcFace, which is halved, against cross-entropy, in [0, 1)")
    margin: float = method_option(0.5, "ArcFace margin m in radians")
    scale: float = method_option(30.0, "ArcFace scale s")
    width: int = method_option(1024, "width E of the embedding")
    bn_momentum: float = method_option(0.05, "weight of the newest batch in running batch-norm statistics")

    def check(self, prefix: str) -> None:
        """Raise for a value that is not allowed; prefix stands before the fields' names.

        Raises:
            InputError: with the flag.
        """
        require(0 <= self.k < 1, f"{prefix}k", "a weight in [0, 1)", self.k)
        require(0 <= self.margin <= 3.1415, f"{prefix}margin", "an angle in radians, 0 to pi", self.margin)
        require(self.scale > 0, f"{prefix}scale", "positive", self.scale)
        require(self.width >= 1, f"{prefix}width", "1 or more", self.width)
        require(0 < self.bn_momentum <= 1, f"{prefix}bn_momentum", "a weight in (0, 1]", self.bn_momentum)

    def idle_arc(self, prefix: str) -> dict[str, str]:
        """Flags of an ArcFace term of no weight."""
        return {} if self.k else {f"{prefix}{name}": f"--{prefix}k above 0" for name in ("margin", "scale")}
