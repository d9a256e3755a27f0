"""Which backbone, from which weights."""

from __future__ import annotations

from dataclasses import dataclass

from abra_wilds.config.fields import Options, option, require

# The last stands for any of timm's.
MODELS = ("resnet18", "resnet50", "densenet121", "densenet161", "vit_small", "timm:NAME")


@dataclass(frozen=True)
class ModelConfig(Options):
    """Which backbone, from which weights."""

    model: str = option("resnet50", f"backbone [{', '.join(MODELS)}]")
    pretrained: bool = option(True, "start from published weights: torchvision's ImageNet ones, or timm's")
    new_stem: bool = option(False, "replace the first convolution by a fresh one")
    pretrained_model_path: str | None = option(
        None,
        "weights to start from: a model's folder, a run's or a checkpoint of one, whose channels and classes "
        "are found by name; a checkpoint of WILDS; or a file of torchvision's or timm's",
        kind=str,
        path=True,
    )
    load_featurizer_only: bool = option(False, "take the backbone alone from --pretrained_model_path")

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.model in MODELS[:-1] or self.model.startswith("timm:")
        require(known, "model", f"one of {', '.join(MODELS)}", self.model)
