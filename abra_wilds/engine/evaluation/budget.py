"""What a run consumed, so that tables can print the budget beside the number."""

from __future__ import annotations

from typing import Any

from abra_wilds.config.evaluation import STATISTICS_TTA
from abra_wilds.config.run import RunConfig
from abra_wilds.engine.artifacts.checkpoint import Progress
from abra_wilds.engine.artifacts.folder import outside_data
from abra_wilds.engine.checks import predict_blank
from abra_wilds.engine.flops import FlopCount
from abra_wilds.engine.setup import Data
from abra_wilds.methods.base import Method


def budget_of(config: RunConfig, setup: Data, method: Method, done: Progress) -> dict[str, Any]:
    """The budget and the sources of a run up to where it is.

    Returns:
        images (training images drawn), steps (of the optimiser), forward_equivalents (the training steps'
        FLOPs in units of one prediction of one image; batch norms and activations are not counted), seconds
        (evaluations included), labels (images whose label was learned from), batch_statistics (of the images
        that are predicted, and nothing else of them, enter one another's predictions), test_images (of the
        evaluated split change the model or one another's predictions), outside_data (what else the first
        weights have seen, or None). The first three are None where an older version did not count them.
    """
    counted = done.steps > 0 or done.epoch < 0
    return {
        "images": done.images if counted else None,
        "steps": done.steps if counted else None,
        "forward_equivalents": round(done.flops / prediction_flops(config, setup, method))
        if counted
        else None,
        "seconds": round(done.seconds, 3),
        "labels": len(setup.subsets["train"]),
        "batch_statistics": config.eval.tta in STATISTICS_TTA,
        "test_images": config.eval.tta != "none",
        "outside_data": outside_data(config.model),
    }


def prediction_flops(config: RunConfig, setup: Data, method: Method) -> float:
    """FLOPs of predicting one image without adaptation."""
    with FlopCount() as count:
        predict_blank(config, setup, method)
    return float(count.total)
