"""The configuration of a run: frozen dataclasses whose fields are the command's flags, under WILDS' names.

A field marked `local` says where or how a run happens and does not change its numbers; the digest leaves it
out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from abra_wilds.data_config import DataConfig
from abra_wilds.eval_config import EvalConfig
from abra_wilds.options import Flag, check_choices, option, require, require_choice
from abra_wilds.speed_config import SpeedConfig

# The last stands for any of timm's.
MODELS = ("resnet18", "resnet50", "densenet161", "vit_small", "timm:NAME")
SCHEDULERS = (
    "cosine_schedule_with_warmup",
    "linear_schedule_with_warmup",
    "constant_schedule_with_warmup",
    "StepLR",
)


@dataclass(frozen=True)
class ModelConfig:
    """Which backbone, from which weights."""

    model: str = option("resnet50", f"backbone [{', '.join(MODELS)}]")
    pretrained: bool = option(True, "start from published weights: torchvision's ImageNet ones, or timm's")
    new_stem: bool = option(False, "replace the first convolution by a fresh one")
    pretrained_model_path: str | None = option(None, "checkpoint whose weights to start from", kind=str)
    load_featurizer_only: bool = option(False, "take the backbone alone from --pretrained_model_path")

    def __post_init__(self) -> None:
        check_choices(self)
        known = self.model in MODELS[:-1] or self.model.startswith("timm:")
        require(known, "model", f"one of {', '.join(MODELS)}", self.model)


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


@dataclass(frozen=True)
class TrainConfig:
    """The seed, and what is local to this machine and run."""

    seed: int = option(0, "seed of weights, batches, augmentation and noise")
    device: tuple[str, ...] = option(
        ("0",),
        "index of the CUDA device, or cpu, which also serves where there is no CUDA; torchrun gives each "
        "process its own",
        local=True,
    )
    log_dir: str = option("./logs", "folder for everything the run writes", local=True)
    log_every: int = option(50, "steps between two rows of train_algo.csv", local=True)
    save_step: int | None = option(
        None, "also keep model and predictions every so many epochs", kind=int, local=True
    )
    save_best: bool = option(True, "keep the model of the best epoch", local=True)
    save_last: bool = option(True, "keep the model of the last epoch; --resume needs it", local=True)
    save_pred: bool = option(True, "write predictions", local=True)
    no_group_logging: bool = option(False, "leave the per-group columns out of *_algo.csv", local=True)
    progress_bar: bool | None = option(None, "show progress; unset: at a terminal", kind=bool, local=True)
    tracker: str = option(
        "none", "also write curves for a viewer", choices=("none", "tensorboard"), local=True
    )
    resume: bool = option(False, "go on from the last epoch saved in --log_dir", local=True)
    overwrite: bool = option(False, "empty --log_dir of an earlier run first", local=True)
    dry_run: bool = option(False, "show what would be run, and stop", local=True)

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.seed >= 0, "seed", "0 or more", self.seed)
        require(self.log_every >= 1, "log_every", "1 or more", self.log_every)
        require(self.save_step is None or self.save_step >= 1, "save_step", "1 or more", self.save_step)
        several = "one device: on several, start one process each by torchrun"
        require(len(self.device) == 1, "device", several, " ".join(self.device))
        number = self.device[0].isdecimal()
        require(number or self.device[0] == "cpu", "device", "a CUDA index or cpu", self.device[0])
        require(not (self.resume and self.overwrite), "resume", "given without --overwrite", "both")


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "eval": EvalConfig,
    "train": TrainConfig,
    "speed": SpeedConfig,
}
# What a saved model may be used with; what is not given is as in its run.
PREDICTION_FLAGS = (
    *("tta", "tta_group", "tta_batch_size", "tta_prior", "tta_min"),
    *("root_dir", "data_format", "device", "loader_kwargs", "amp", "channels_last", "compile"),
)


OWN_LOOP = "abra_wilds"


@dataclass(frozen=True)
class RunConfig:
    """One run: an algorithm, and everything it needs to be repeated.

    `abra_wilds.run_config` builds one from a preset, the method's own wishes and defaults.

    Attributes:
        algorithm: name in the table of methods.
        preset: "paper" or "wilds".
        origin: flag name -> where its value came from.
        method: the method's own dataclass; the other sections are those above.
        loop: whose training loop runs it.
        world: processes that train together, each on batches of its own.
    """

    algorithm: str
    preset: str
    origin: Mapping[str, str]
    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    eval: EvalConfig
    train: TrainConfig
    speed: SpeedConfig
    method: Any
    loop: str = OWN_LOOP
    world: int = 1

    def values(self, local: bool = True) -> dict[str, Any]:
        """Flag name -> value, over all sections; without `local` only what can change a number."""
        found: dict[str, Any] = {"algorithm": self.algorithm, "loop": self.loop, "world": self.world}
        for section in (*(getattr(self, name) for name in SECTIONS), self.method):
            for f in fields(section):
                if local or not flag_of(f).local:
                    found[flag_name(f, self.algorithm)] = getattr(section, f.name)
        return found

    def digest(self) -> str:
        """sha256 of the canonical JSON of everything that can change a number; it goes into every record."""
        return digest_of(self.values(local=False))


def canonical(values: Mapping[str, Any]) -> str:
    """The one JSON text of some values."""
    return json.dumps(jsonable(values), sort_keys=True, separators=(",", ":"))


def digest_of(values: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of values that can change a number."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def flag_of(f: Field[Any]) -> Flag:
    """The flag a field stands for."""
    flag: Flag = f.metadata["flag"]
    return flag


def flag_name(f: Field[Any], algorithm: str | None = None) -> str:
    """The flag's name: as WILDS has it, else the field's, which stands behind its method's name."""
    if flag_of(f).name:
        return str(flag_of(f).name)
    if not algorithm or not flag_of(f).of_method:
        return f.name
    return f"{algorithm.lower().replace('-', '_')}_{f.name}"


def jsonable(value: Any) -> Any:
    """The value in JSON's types; infinities become strings, because JSON has none."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def sections(method_config: type) -> Iterator[tuple[str, type]]:
    """Every section's name and dataclass, the method's last."""
    yield from SECTIONS.items()
    yield "method", method_config
