"""How fast a step runs on its device, and in what precision."""

from __future__ import annotations

from dataclasses import dataclass

from abra_wilds.config.fields import Options, option


@dataclass(frozen=True)
class SpeedConfig(Options):
    """Precision and memory layout of the backbone; statistics, perturbations and losses stay in float32."""

    amp: str = option(
        "none",
        "half precision of the backbone by autocast; everything else, K and statistics included, stays in "
        "float32; fp16 scales the loss and needs a CUDA device, bf16 needs neither; with none, convolutions "
        "on GPUs since Ampere multiply in TF32, which is torch's default",
        choices=("none", "bf16", "fp16"),
    )
    channels_last: bool = option(
        False, "keep feature maps and weights with channels last in memory, as tensor cores want them"
    )
    compile: bool = option(
        False,
        "compile the stages of the backbone with torch.compile; the first steps take minutes longer, and on "
        "a CPU a C++ compiler is needed",
    )
