"""What a run asks of its method, settings and data together, before anything is written."""

from __future__ import annotations

import torch

from abra_wilds.config.run import RunConfig
from abra_wilds.engine.inputs import check_views
from abra_wilds.engine.setup import Data, Setup
from abra_wilds.methods.base import Method
from abra_wilds.tta.plan import check_plans, split_plan
from abra_wilds.types import HeadPhase, InputError


def check_method(config: RunConfig, setup: Setup, method: Method) -> None:
    """Raise for whatever would end a run, or leave nothing of it, only once it has trained.

    Args:
        config: of the run.
        setup: of the configuration.
        method: of the configuration, on any device.

    Raises:
        InputError: with what to change.
    """
    check_head(config, method.head_phase(), setup)
    check_views(setup.shape, config.data, method.view_plan())
    check_also_tta(config, setup)
    if "val" not in setup.subsets and not config.train.save_last:
        raise InputError(
            "--save_last false would leave nothing of this run, because --split_scheme "
            f"{config.data.split_scheme} of {config.data.dataset} has no val to pick a best epoch by; leave "
            "it out"
        )
    predict_blank(config, setup, method)


def check_also_tta(config: RunConfig, setup: Setup) -> None:
    """Raise where an adaptation of --also_tta has no val to pick an epoch by, or would adapt no image of it.

    Raises:
        InputError: with what to change.
    """
    alternatives = config.eval.alternatives()
    if alternatives and "val" not in setup.subsets:
        raise InputError(
            f"--also_tta picks epochs by val, which --split_scheme {config.data.split_scheme} of "
            f"{config.data.dataset} does not have; leave it out"
        )
    for e in alternatives:
        if e.tta != "none":
            check_plans({"val": split_plan(setup.subsets["val"], e, config.data.batch_size)}, e)


def check_head(config: RunConfig, phase: HeadPhase | None, setup: Setup) -> None:
    """Raise where images, features and classifier cannot follow each other.

    Args:
        config: of the run.
        phase: that of its method.
        setup: of the configuration.

    Raises:
        InputError: with what to change.
    """
    name = config.algorithm
    if phase is None:
        if config.optim.n_epochs == 0:
            raise InputError(f"{name} learns from images alone: --n_epochs must be 1 or more; got 0")
        return
    if config.eval.tta != "none" or config.eval.also_tta:
        raise InputError(
            f"{name} trains its classifier on features that are computed once, without adaptation: leave "
            "--tta and --also_tta out, and adapt the saved model by `abra-wilds predict`"
        )
    if "val" not in setup.subsets and len(phase.rates) > 1:
        raise InputError(
            f"{name} picks one of {len(phase.rates)} learning rates of its classifier on val, which "
            f"--split_scheme {config.data.split_scheme} does not have; choose another scheme or a single rate"
        )
    n = len(setup.subsets["train"])
    if phase.n_groups and n < phase.batch_size:
        raise InputError(
            f"{name} trains its classifier on batches of {phase.batch_size} rows, {phase.n_groups} "
            f"bio-batches of {phase.batch_size // phase.n_groups}, and the training split has {n} images; "
            "take fewer of either, by the flags of the method in --help"
        )


@torch.no_grad()
def predict_blank(config: RunConfig, setup: Data, method: Method) -> None:
    """Predict a blank image of the size that evaluation has, which training may never show the network.

    Raises:
        InputError: if the network refuses it.
    """
    C, H, W = setup.shape
    blank = torch.zeros(1, C, *(config.data.size or (H, W)), device=next(method.parameters()).device)
    was_training = method.training
    method.eval()
    with torch.compiler.set_stance("force_eager"):  # nobody predicts one image at a time
        method.predict(blank)
    method.train(was_training)
