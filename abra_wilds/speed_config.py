"""How fast a step runs on its device, and in what precision."""

from __future__ import annotations

from dataclasses import dataclass

from abra_wilds.options import check_choices, option


@dataclass(frozen=True)
class SpeedConfig:
    """Precision and memory layout of the backbone; statistics, perturbations and losses stay in float32."""

    amp: str = option(
        "none",
        "mixed precision of the backbone; fp16 scales the loss and needs a CUDA device",
        choices=("none", "bf16", "fp16"),
    )
    channels_last: bool = option(False, "keep images and feature maps with channels last in memory")
    compile: bool = option(False, "compile the backbone with torch.compile")

    def __post_init__(self) -> None:
        check_choices(self)
