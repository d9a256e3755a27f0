"""ABRA for the WILDS benchmark: classifiers that survive new biological batches.

The public names are resolved when they are first used, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "METHODS": "abra_wilds.methods",
    "get_method": "abra_wilds.methods",
    "RunConfig": "abra_wilds.config.run",
    "run_config": "abra_wilds.recipes.resolve",
    "fit": "abra_wilds.engine.fit",
    "evaluate": "abra_wilds.engine.evaluation.evaluate",
    "load_model": "abra_wilds.engine.models.model",
    "Model": "abra_wilds.engine.models.model",
    "StatPerturbation": "abra_wilds.methods.abra.perturbation",
    "channel_stats": "abra_wilds.functional.stats",
    "restyle": "abra_wilds.functional.stats",
    "js_divergence": "abra_wilds.functional.losses",
    "arcface_logits": "abra_wilds.functional.losses",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
