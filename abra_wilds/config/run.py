"""The configuration of a run: frozen dataclasses whose fields are the command's flags, under WILDS' names.

A field marked `local` says where or how a run happens and does not change its numbers; the digest leaves it
out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abra_wilds.config.data import DataConfig
from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.config.fields import Options, option, require
from abra_wilds.config.model import ModelConfig
from abra_wilds.config.optim import OptimConfig
from abra_wilds.config.precision import SpeedConfig
from abra_wilds.config.schema import Schema, digest_of
from abra_wilds.config.screen import ScreenConfig

DEVICE = re.compile(r"auto|cpu|mps|cuda|(cuda:)?[0-9]+")


@dataclass(frozen=True)
class TrainConfig(Options):
    """The seed, and what is local to this machine and run."""

    seed: int = option(0, "seed of weights, batches, augmentation and noise", at_least=0, at_most=2**32 - 1)
    device: tuple[str, ...] = option(
        ("0",),
        "auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N, mps, or N alone, which is cuda:N where there is "
        "CUDA and else the CPU; torchrun gives each process its own CUDA device",
        local=True,
    )
    log_dir: str = option("./logs", "folder for everything the run writes", local=True, path=True)
    log_every: int = option(50, "steps between two rows of train_algo.csv", at_least=1, local=True)
    save_step: int | None = option(
        None, "also keep model and predictions every so many epochs", kind=int, at_least=1, local=True
    )
    save_best: bool = option(True, "keep the model of the best epoch", local=True)
    save_last: bool = option(True, "keep the model of the last epoch; --resume needs it", local=True)
    save_pred: bool = option(True, "write predictions", local=True)
    save_model: bool = option(
        True, "also leave the best model as the folder `model`, which needs no data to be used", local=True
    )
    no_group_logging: bool = option(False, "leave the per-group columns out of *_algo.csv", local=True)
    progress_bar: bool | None = option(None, "show progress; unset: at a terminal", kind=bool, local=True)
    tracker: str = option(
        "none", "also write curves for a viewer", choices=("none", "tensorboard"), local=True
    )
    resume: bool = option(False, "go on from the last epoch saved in --log_dir", local=True)
    overwrite: bool = option(False, "empty --log_dir of an earlier run first", local=True)
    dry_run: bool = option(False, "show what would be run, and stop", local=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        several = "one device: on several, start one process each by torchrun"
        require(len(self.device) == 1, "device", several, " ".join(self.device))
        known = DEVICE.fullmatch(self.device[0]) is not None
        require(known, "device", "auto, cpu, cuda, cuda:N, N or mps", self.device[0])
        require(not (self.resume and self.overwrite), "resume", "given without --overwrite", "both")


SECTIONS: dict[str, type[Options]] = {
    "data": DataConfig,
    "screen": ScreenConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "eval": EvalConfig,
    "train": TrainConfig,
    "speed": SpeedConfig,
}
COMMON = Schema(SECTIONS)  # what runs of every method have
# What a saved model may be used with; what is not given is as in its run.
PREDICTION_FLAGS = (
    *("tta", "tta_group", "tta_batch_size", "tta_prior", "tta_min", "tta_controls"),
    *("root_dir", "data_format", "device", "loader_kwargs", "amp", "channels_last", "compile"),
)
OWN_LOOP = "abra_wilds"


@dataclass(frozen=True)
class RunConfig:
    """One run: an algorithm, and everything it needs to be repeated.

    `abra_wilds.run_config` builds one from a preset, the method's own wishes and defaults.

    Attributes:
        algorithm: name in the table of methods.
        preset: "paper", "paper_text" or "wilds".
        origin: flag name -> where its value came from.
        method: the method's own dataclass; the other sections are those above.
        loop: whose training loop runs it.
        world: processes that train together, each on batches of its own.
    """

    algorithm: str
    preset: str
    origin: Mapping[str, str]
    data: DataConfig
    screen: ScreenConfig
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
        outside = {"algorithm": self.algorithm, "loop": self.loop, "world": self.world}
        return outside | schema_of(type(self.method)).flatten(self, local)

    def digest(self) -> str:
        """sha256 of the canonical JSON of everything that can change a number; it goes into every record."""
        return digest_of(self.values(local=False))


def schema_of(method_config: type[Options]) -> Schema:
    """The flags of runs of a method, by its dataclass, which is the last section and called "method"."""
    return Schema({**SECTIONS, "method": method_config})
