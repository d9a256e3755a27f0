"""ABRA for the WILDS benchmark: classifiers that survive new biological batches.

The public names are resolved when they are first used, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# Their types are in `__init__.pyi`.
_HOMES = {
    # train
    "fit": "abra_wilds.engine.fit",
    "run_config": "abra_wilds.recipes.resolve",
    "RunConfig": "abra_wilds.config.run",
    "Screen": "abra_wilds.data.screens.screen",
    # use
    "load_model": "abra_wilds.engine.models.model",
    "Model": "abra_wilds.engine.models.model",
    "predict": "abra_wilds.tta.adapted",
    "adapted": "abra_wilds.tta.adapted",
    # parts
    "BatchShift": "abra_wilds.methods.abra.perturbation",
    "abra_loss": "abra_wilds.methods.abra.loss",
    "PlateBatchSampler": "abra_wilds.data.samplers.dataloader",
    "Batch": "abra_wilds.types",
    "Target": "abra_wilds.types",
    "channel_stats": "abra_wilds.functional.stats",
    "restyle": "abra_wilds.functional.stats",
    "js_divergence": "abra_wilds.functional.losses",
    "arcface_logits": "abra_wilds.functional.losses",
    # methods
    "METHODS": "abra_wilds.methods",
    "get_method": "abra_wilds.methods",
    "build_net": "abra_wilds.nets.backbones",
    "DataInfo": "abra_wilds.types",
    "StepContext": "abra_wilds.types",
    "StepOutput": "abra_wilds.types",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
