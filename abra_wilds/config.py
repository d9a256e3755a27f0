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

from abra_wilds.eval_config import EvalConfig
from abra_wilds.options import Flag, check_choices, option, require, require_choice

# What each data set can be split by, its default first.
SPLIT_SCHEMES: dict[str, tuple[str, ...]] = {
    "rxrx1": ("official", "mixed-to-test"),
    "rxrx1_6ch": ("wilds", "official"),
}
TRAIN_LOADERS = ("plate", "group", "standard", "pairs", "controls")
MIXES = ("none", "cutmix", "cutmix_any", "lisa")
# The last stands for any of timm's.
MODELS = ("resnet18", "resnet50", "densenet161", "vit_small", "timm:NAME")
TRANSFORMS = ("rxrx1", "paper", "iid", "none")
SCHEDULERS = (
    "cosine_schedule_with_warmup",
    "linear_schedule_with_warmup",
    "constant_schedule_with_warmup",
    "StepLR",
)


@dataclass(frozen=True)
class DataConfig:
    """Which images, in which batches."""

    dataset: str = option(
        "rxrx1", "data set: RxRx1-WILDS, or RxRx1 with six stains", choices=tuple(SPLIT_SCHEMES)
    )
    root_dir: str = option("data", "folder that holds the data set's folder", local=True)
    version: str | None = option(None, "version of the data set; unset: the newest", kind=str)
    split_scheme: str | None = option(
        None,
        "which images train, validate and test; unset: the data set's first "
        f"[{'; '.join(f'{name}: ' + ', '.join(schemes) for name, schemes in SPLIT_SCHEMES.items())}]",
        kind=str,
    )
    frac: float = option(1.0, "share of every split to use, for trying things out")
    transform: str = option("rxrx1", "augmentation of training images", choices=TRANSFORMS)
    target_resolution: tuple[int, ...] = option((), "height and width to which images are resized", kind=int)
    mix: str = option("none", "CutMix inside a bio-batch, across the batch, or of pairs", choices=MIXES)
    cutmix_alpha: float = option(1.0, "CutMix of any kind: lambda is drawn from Beta(alpha, alpha)")
    cutmix_prob: float = option(1.0, "CutMix: probability that a batch is mixed")
    train_loader: str = option("standard", "how training batches are drawn", choices=TRAIN_LOADERS)
    groupby_fields: tuple[str, ...] = option(("experiment",), "metadata fields that define a bio-batch")
    uniform_over_groups: bool = option(False, "draw bio-batches uniformly, not by their size")
    distinct_groups: bool = option(True, "the bio-batches of one batch differ")
    n_groups_per_batch: int = option(4, "bio-batches in a batch of the group loader")
    pairs_cross: bool = option(True, "pairs loader: partners come from another bio-batch")
    n_controls_per_batch: int = option(0, "controls loader: control wells added to a batch; 0: the plate's")
    batch_size: int = option(72, "images per batch")
    plate_remainder: str = option(
        "even",
        "plate loader: cut a bio-batch into near-equal batches, or drop its remainder",
        choices=("even", "drop"),
    )
    eval_loader: str = option(
        "standard", "order in which images are predicted", choices=("standard", "group")
    )
    loader_kwargs: dict[str, Any] = option(
        {"num_workers": 4, "pin_memory": True}, "num_workers=N pin_memory=True|False", local=True
    )

    def __post_init__(self) -> None:
        check_choices(self)
        schemes = SPLIT_SCHEMES[self.dataset]
        if self.split_scheme is None:
            object.__setattr__(self, "split_scheme", schemes[0])
        allowed = f"one of {', '.join(schemes)} for --dataset {self.dataset}"
        require(self.split_scheme in schemes, "split_scheme", allowed, self.split_scheme)
        require(0 < self.frac <= 1, "frac", "a share in (0, 1]", self.frac)
        sides = self.target_resolution
        fits = len(sides) <= 2 and all(s >= 32 for s in sides)
        require(fits, "target_resolution", "one or two sides of 32 pixels or more", sides)
        require(self.cutmix_alpha > 0, "cutmix_alpha", "positive", self.cutmix_alpha)
        require(0 <= self.cutmix_prob <= 1, "cutmix_prob", "a probability", self.cutmix_prob)
        require(self.batch_size >= 2, "batch_size", "2 or more", self.batch_size)
        require(self.n_groups_per_batch >= 1, "n_groups_per_batch", "1 or more", self.n_groups_per_batch)
        n_controls = self.n_controls_per_batch
        require(n_controls >= 0, "n_controls_per_batch", "0 or more", n_controls)
        paired = self.mix != "lisa" or self.train_loader == "pairs"
        require(paired, "mix", "something else than lisa without --train_loader pairs", self.mix)
        require(
            len(self.groupby_fields) > 0, "groupby_fields", "at least one metadata field", self.groupby_fields
        )
        for key in self.loader_kwargs:
            require_choice("loader_kwargs", key, ("num_workers", "pin_memory"))
        workers, pinned = self.loader_kwargs.get("num_workers", 0), self.loader_kwargs.get("pin_memory", True)
        require(type(workers) is int and workers >= 0, "loader_kwargs num_workers", "0 or more", workers)
        require(isinstance(pinned, bool), "loader_kwargs pin_memory", "true or false", pinned)
        # WILDS numbers groups in the data set's order whatever the order given, so the order means nothing.
        object.__setattr__(self, "groupby_fields", tuple(sorted(set(self.groupby_fields))))

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) to which images are resized, or None."""
        return (self.target_resolution[0], self.target_resolution[-1]) if self.target_resolution else None

    @property
    def bio_batch(self) -> str:
        """What one bio-batch is: "plate", "experiment", or the fields that define it."""
        named = {("experiment",): "experiment", ("experiment", "plate"): "plate"}
        return named.get(self.groupby_fields, "+".join(self.groupby_fields))


@dataclass(frozen=True)
class ModelConfig:
    """Which backbone, from which weights."""

    model: str = option("resnet50", f"backbone [{', '.join(MODELS)}]")
    pretrained: bool = option(True, "start from published weights: torchvision's ImageNet ones, or timm's")
    new_stem: bool = option(False, "replace the first convolution by a fresh one (U34, U35)")
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
    device: tuple[str, ...] = option(("0",), "index of the CUDA device, or cpu", local=True)
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
}


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
    """

    algorithm: str
    preset: str
    origin: Mapping[str, str]
    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    eval: EvalConfig
    train: TrainConfig
    method: Any
    loop: str = OWN_LOOP

    def values(self, local: bool = True) -> dict[str, Any]:
        """Flag name -> value, over all sections; without `local` only what can change a number."""
        found: dict[str, Any] = {"algorithm": self.algorithm, "loop": self.loop}
        for section in (*(getattr(self, name) for name in SECTIONS), self.method):
            for f in fields(section):
                if local or not flag_of(f).local:
                    found[flag_name(f, self.algorithm)] = getattr(section, f.name)
        return found

    def digest(self) -> str:
        """sha256 of the canonical JSON of everything that can change a number; it goes into every record."""
        canonical = json.dumps(jsonable(self.values(local=False)), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


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
