"""How theta moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from abra_wilds.config.fields import Options, option, require, require_choice

SCHEDULERS = (
    "cosine_schedule_with_warmup",
    "linear_schedule_with_warmup",
    "constant_schedule_with_warmup",
    "StepLR",
)


@dataclass(frozen=True)
class OptimConfig(Options):
    """How theta moves."""

    n_epochs: int = option(90, "passes over the training data", at_least=0)
    optimizer: str = option("Adam", "optimiser", choices=("Adam", "AdamW", "SGD"))
    lr: float = option(1e-3, "learning rate at the end of warm-up", above=0)
    weight_decay: float = option(1e-5, "L2 weight, decoupled for AdamW", at_least=0)
    max_grad_norm: float | None = option(
        None, "clip the gradient's norm to this", kind=float, above=0, infinite=True
    )
    optimizer_kwargs: dict[str, Any] = option({}, "further arguments of the optimiser, key=value")
    gradient_accumulation_steps: int = option(1, "batches per optimiser step", at_least=1)
    accumulate: str = option(
        "mean", "what a step makes of its batches' gradients; WILDS sums them", choices=("mean", "sum")
    )
    scheduler: str = option("cosine_schedule_with_warmup", "course of the learning rate", choices=SCHEDULERS)
    scheduler_kwargs: dict[str, Any] = option({}, "num_warmup_steps=N; for StepLR step_size=N gamma=F")
    warmup_epochs: float = option(0.0, "epochs of linear warm-up; fractions are allowed", at_least=0)
    warmup_from: float = option(0.0, "learning rate at the start of warm-up", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
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
