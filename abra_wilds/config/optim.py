"""How theta moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from abra_wilds.config.fields import check_choices, option, require, require_choice

SCHEDULERS = (
    "cosine_schedule_with_warmup",
    "linear_schedule_with_warmup",
    "constant_schedule_with_warmup",
    "StepLR",
)


@dataclass(frozen=True)
class OptimConfig:
    """How theta moves."""

    n_epochs: int = option(90, "passes over the training data")
    optimizer: str = option("Adam", "optimiser", choices=("Adam", "AdamW", "SGD"))
    lr: float = option(1e-3, "learning rate at the end of warm-up")
    weight_decay: float = option(1e-5, "L2 weight, decoupled for AdamW")
    max_grad_norm: float | None = option(None, "clip the gradient's norm to this", kind=float)
    optimizer_kwargs: dict[str, Any] = option({}, "further arguments of the optimiser, key=value")
    gradient_accumulation_steps: int = option(1, "batches per optimiser step")
    accumulate: str = option(
        "mean", "what a step makes of its batches' gradients; WILDS sums them", choices=("mean", "sum")
    )
    scheduler: str = option("cosine_schedule_with_warmup", "course of the learning rate", choices=SCHEDULERS)
    scheduler_kwargs: dict[str, Any] = option({}, "num_warmup_steps=N; for StepLR step_size=N gamma=F")
    warmup_epochs: float = option(0.0, "epochs of linear warm-up; fractions are allowed")
    warmup_from: float = option(0.0, "learning rate at the start of warm-up")

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.n_epochs >= 0, "n_epochs", "0 or more", self.n_epochs)
        require(self.lr > 0 and math.isfinite(self.lr), "lr", "positive", self.lr)
        finite = self.weight_decay >= 0 and math.isfinite(self.weight_decay)
        require(finite, "weight_decay", "0 or more, and finite", self.weight_decay)
        require(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            "max_grad_norm",
            "positive",
            self.max_grad_norm,
        )
        steps = self.gradient_accumulation_steps
        require(steps >= 1, "gradient_accumulation_steps", "1 or more", steps)
        require(self.warmup_epochs >= 0, "warmup_epochs", "0 or more", self.warmup_epochs)
        require(self.warmup_from >= 0, "warmup_from", "0 or more", self.warmup_from)
        allowed = ("step_size", "gamma") if self.scheduler == "StepLR" else ("num_warmup_steps",)
        for key in self.scheduler_kwargs:
            require_choice(f"scheduler_kwargs of {self.scheduler}", key, allowed)
        for key, value in self.scheduler_kwargs.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            whole = number and isinstance(value, int) and value >= 1
            fits, needs = (
                (whole, "a whole number of 1 or more") if key == "step_size" else (number, "0 or more")
            )
            require(fits, f"scheduler_kwargs {key}", needs, value)
