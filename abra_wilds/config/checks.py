"""What of a configuration would have no effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from abra_wilds.config.run import RunConfig
from abra_wilds.config.screen import DATASET
from abra_wilds.dist import launched
from abra_wilds.errors import InputError

# Flags that nothing reads without epochs over images; a --config file of a whole recipe may keep them.
OF_IMAGE_EPOCHS = (
    "optimizer",
    "lr",
    "weight_decay",
    "max_grad_norm",
    "optimizer_kwargs",
    "gradient_accumulation_steps",
    "scheduler",
    "scheduler_kwargs",
    "transform",
    "mix",
)


def refuse_idle(config: RunConfig, given: Mapping[str, Any]) -> None:
    """Raise for given values that nothing would read."""
    d, o, e, t = config.data, config.optim, config.eval, config.train
    idle = idle_without_screen(config) | {
        **idle_without_images(config),
        "n_groups_per_batch": (d.train_loader != "group", "--train_loader group"),
        "distinct_groups": (d.train_loader != "group", "--train_loader group"),
        "uniform_over_groups": (
            d.train_loader not in ("group", "standard"),
            "--train_loader group or standard",
        ),
        "pairs_cross": (d.train_loader != "pairs", "--train_loader pairs"),
        "n_controls_per_batch": (d.train_loader != "controls", "--train_loader controls"),
        "accumulate": (o.gradient_accumulation_steps == 1, "--gradient_accumulation_steps 2 or more"),
        "plate_remainder": (d.train_loader != "plate", "--train_loader plate"),
        "cutmix_alpha": (d.mix == "none", "a --mix other than none"),
        "cutmix_prob": (d.mix == "none", "a --mix other than none"),
        "load_featurizer_only": (config.model.pretrained_model_path is None, "--pretrained_model_path"),
        "eval_splits": (e.evaluate_all_splits, "--evaluate_all_splits false"),
        "also_tta": (not t.save_best, "--save_best true"),
        "eval_epoch": (not e.eval_only, "--eval_only"),
        "warmup_from": (not o.warmup_epochs and "num_warmup_steps" not in o.scheduler_kwargs, "a warm-up"),
        "resume": (e.eval_only and t.resume, "training, not with --eval_only"),
        "dry_run": (e.eval_only and t.dry_run, "training, not with --eval_only"),
        "overwrite": (e.eval_only and t.overwrite, "training, not with --eval_only"),
        "device": (launched() > 1 and t.device[0] not in ("cpu", "auto"), "one process, or as cpu or auto"),
        "pretrained": (config.model.pretrained_model_path is not None, "no --pretrained_model_path"),
        **{name: (True, needs) for name, needs in (config.method.idle(d.mix) | e.idle()).items()},
    }
    if t.resume and not t.save_last and not e.eval_only:
        idle["resume"] = (True, "--save_last true")
    if {"lr", "weight_decay"} & set(o.optimizer_kwargs):
        idle["optimizer_kwargs"] = (True, "arguments other than --lr and --weight_decay")
    for name, (is_idle, needs) in idle.items():
        if name in given and is_idle:
            raise InputError(
                f"--{name} would have no effect here: it works with {needs}; leave it out or add that"
            )
    if "warmup_epochs" in given and "num_warmup_steps" in o.scheduler_kwargs:
        raise InputError(
            "--warmup_epochs and --scheduler_kwargs num_warmup_steps both set the warm-up; give one"
        )


def idle_without_screen(config: RunConfig) -> dict[str, tuple[bool, str]]:
    """Whether each flag of screens was given to a run without one, and what it needs.

    Raises:
        InputError: for a screen beside another data set, or none where the data set is one.
    """
    without, dataset = config.screen.screen is None, config.data.dataset
    if without == (dataset == DATASET):
        raise InputError(
            f"--dataset {DATASET} and --screen belong together; got --dataset {dataset} "
            f"{'without' if without else 'with'} --screen"
        )
    return {f.name: (without, "--screen") for f in fields(config.screen)}


def idle_without_images(config: RunConfig) -> dict[str, tuple[bool, str]]:
    """Whether each flag of the epochs over images was given to a run without them, and what it needs."""
    return {
        name: (config.optim.n_epochs == 0 and config.origin.get(name) == "flag", "--n_epochs 1 or more")
        for name in OF_IMAGE_EPOCHS
    }
