"""Epochs that adaptations pick by their own accuracy on val, beside the epoch that the run itself picks.

A model that is adapted may be best at another epoch than the same model unadapted. Rows of a table are
compared fairly where each picks its epoch by the accuracy that it reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.config.run import RunConfig
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.engine.artifacts.checkpoint import Progress
from abra_wilds.engine.evaluation.components import adapter_of
from abra_wilds.engine.evaluation.evaluate import predict, score
from abra_wilds.engine.setup import Setup, adapted_loader
from abra_wilds.errors import InputError
from abra_wilds.methods.base import Method
from abra_wilds.tta.plan import known_controls_of


@dataclass(frozen=True)
class Pick:
    """An adaptation that picks an epoch.

    Attributes:
        e: the evaluation settings with it.
        loader: of val, bio-batch by bio-batch where it adapts.
    """

    e: EvalConfig
    loader: Loader


def picks_of(config: RunConfig, setup: Setup) -> dict[str, Pick]:
    """The adaptations of --also_tta by name."""
    return {
        e.name: Pick(e, adapted_loader(config, setup.subsets["val"], setup.grouper, setup.device, e))
        for e in config.eval.alternatives()
    }


def check_picks(picks: Mapping[str, Pick], done: Progress) -> None:
    """Raise where a run goes on with other adaptations than have judged its epochs so far.

    One that is new would call an epoch the best that it has compared with no earlier one.

    Raises:
        InputError: with both.
    """
    if done.epoch >= 0 and set(picks) != set(done.picked):
        now, then = (", ".join(sorted(names)) or "no adaptation" for names in (picks, done.picked))
        raise InputError(
            f"--also_tta lets {now} pick epochs, and those so far were judged by {then}; resume with the "
            "same, or start the run again with --overwrite"
        )


@torch.no_grad()
def pick_epochs(
    config: RunConfig, setup: Setup, method: Method, picks: Mapping[str, Pick], done: Progress
) -> tuple[Progress, dict[str, float], list[str]]:
    """Let every adaptation judge the method as it is.

    Args:
        config: of the run.
        setup: of the configuration.
        method: after the epoch of `done`.
        picks: from `picks_of`.
        done: whose `epoch` is complete.

    Returns:
        The progress with their best epochs so far, their metrics on val, and the names of those to which this
        epoch is the best.
    """
    e, values, best = config.eval, {}, dict(done.picked)
    for name, pick in picks.items():
        val, adapter = setup.subsets["val"], adapter_of(pick.e, config, setup, method)
        controls = known_controls_of(val, pick.e)
        d = config.data
        y_pred = predict(
            method, pick.loader, setup.device, d.size, adapter=adapter, known=controls, transform=d.plain
        )
        values[name] = score(val, y_pred)[e.val_metric]
        known = best.get(name)
        if known is None or better(values[name], known[0], e.val_metric_decreasing):
            best[name] = (values[name], done.epoch)
    now = [name for name, (_, epoch) in best.items() if epoch == done.epoch]
    return replace(done, picked=best), values, now


def better(value: float, than: float | None, decreasing: bool) -> bool:
    """Whether a validation metric improves on the best so far, if there is one."""
    return than is None or (value < than if decreasing else value > than)
