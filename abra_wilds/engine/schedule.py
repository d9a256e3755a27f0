"""Optimisers by name, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch

from abra_wilds.config.optim import OptimConfig
from abra_wilds.engine.precision import fused
from abra_wilds.errors import InputError
from abra_wilds.methods.base import Method

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "SGD": torch.optim.SGD,
}


def make_optimizer(config: OptimConfig, method: Method, scaled: bool = False) -> torch.optim.Optimizer:
    """The configured optimiser over the parameters that are trained.

    Args:
        config: names it and its arguments.
        method: on its device.
        scaled: whether a scaler decides on the device which steps are taken.

    Raises:
        InputError: if it does not take the arguments.
    """
    trained: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.requires_grad], "factor": factor}
        for parameters, factor in method.parameter_groups()
    ]
    kwargs: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, **config.optimizer_kwargs}
    # Fused SGD would leave its momentum uninitialised where the scaler skips the first step. Without fusion
    # the host waits for the device once a step.
    if not (scaled and config.optimizer == "SGD"):
        kwargs |= fused((p for group in trained for p in group["params"]), kwargs)
    try:
        return OPTIMIZERS[config.optimizer](trained, **kwargs)
    except (TypeError, ValueError) as fault:
        raise InputError(
            f"{config.optimizer} does not take --optimizer_kwargs {config.optimizer_kwargs}: {fault}"
        ) from None


def asked_warmup(config: OptimConfig, steps_per_epoch: int) -> float:
    """Length of the warm-up in optimiser steps, as the settings have it."""
    return float(config.scheduler_kwargs.get("num_warmup_steps", config.warmup_epochs * steps_per_epoch))


def warmup_steps(config: OptimConfig, steps_per_epoch: int) -> float:
    """Length of the warm-up in optimiser steps; that of the run where it would outlast it."""
    return min(asked_warmup(config, steps_per_epoch), config.n_epochs * steps_per_epoch)


def warmup_lines(config: OptimConfig, steps_per_epoch: int) -> list[str]:
    """For the log: whether the warm-up is shortened."""
    asked = asked_warmup(config, steps_per_epoch) / steps_per_epoch
    if asked <= config.n_epochs or not config.n_epochs:
        return []
    return [f"the warm-up of {asked:g} epochs is shortened to the {config.n_epochs:g} of the run"]


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of an optimiser step, counted from 0 over the whole run.

    Linear from `warmup_from` to `lr` during warm-up; then, with p the share of the rest that has passed,
    cosine lr (1 + cos(pi p)) / 2, linear lr (1 - p), constant, or StepLR lr gamma^(epoch // step_size).
    """
    warm, total = warmup_steps(config, steps_per_epoch), config.n_epochs * steps_per_epoch
    if step < warm:
        return config.warmup_from + (config.lr - config.warmup_from) * step / warm
    p = min(1.0, (step - warm) / max(1.0, total - warm))
    if config.scheduler == "cosine_schedule_with_warmup":
        return config.lr * 0.5 * (1 + math.cos(math.pi * p))
    if config.scheduler == "linear_schedule_with_warmup":
        return config.lr * (1 - p)
    if config.scheduler == "constant_schedule_with_warmup":
        return config.lr
    epoch, every = step // steps_per_epoch, config.scheduler_kwargs.get("step_size", 1)
    return float(config.lr * config.scheduler_kwargs.get("gamma", 0.1) ** (epoch // every))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate, times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)
