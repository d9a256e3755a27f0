"""The numbers of the paper and of WILDS, each with its source."""

from __future__ import annotations

import math
from typing import Any

# ABRA paper, section 4.1: Adam, batch 128, 100 epochs, linear warm-up 1e-4 -> 1e-2 over 10 epochs, weight
# decay 1e-5, flips, quarter turns, crop 256 -> 512, a replaced first convolution. Cosine after warm-up is
# ours, and so are the 8 bio-batches for methods that need several: the paper does not say.
PAPER = {
    "batch_size": 128,
    "n_epochs": 100,
    "optimizer": "Adam",
    "lr": 1e-2,
    "weight_decay": 1e-5,
    "scheduler": "cosine_schedule_with_warmup",
    "warmup_epochs": 10.0,
    "warmup_from": 1e-4,
    "transform": "paper",
    "n_groups_per_batch": 8,
    "new_stem": True,
}


# The same without what the paper's text does not say: no decay after the warm-up, statistics of training, an
# unbounded K and Algorithm 1's two forwards. K starts at a tenth of sigma, since the text gives no start and
# 0 is a stationary point. The loader is ABRA's own in every preset: batches of one plate, CutMix inside.
PAPER_TEXT = {
    **PAPER,
    "scheduler": "constant_schedule_with_warmup",
    "bn_stats": "running",
    "abra_at": ("res4",),
    "abra_k_unit": "absolute",
    "abra_k_init": 0.1,
    "abra_k_init_relative": True,
    "abra_k_bound": math.inf,
    "abra_two_forward": True,
}


# p-lambda/wilds 4726775, examples/configs/datasets.py, 'rxrx1'. Its 5,415 warm-up steps are 10 epochs at the
# batch of 75 for which they were counted; stated in epochs they stay 10 at any batch.
WILDS = {
    "batch_size": 72,
    "n_epochs": 90,
    "optimizer": "Adam",
    "lr": 1e-3,
    "weight_decay": 1e-5,
    "scheduler": "cosine_schedule_with_warmup",
    "warmup_epochs": 10.0,
    "warmup_from": 0.0,
    "transform": "rxrx1",
    "n_groups_per_batch": 9,
    "new_stem": False,
}


CONSTANT_RATE = {
    "scheduler": "constant_schedule_with_warmup",
    "warmup_epochs": 0.0,
    "warmup_from": 0.0,
    "transform": "imagenet",
    "new_stem": False,
}
PRESETS: dict[str, dict[str, Any]] = {"paper": PAPER, "paper_text": PAPER_TEXT, "wilds": WILDS}


# p-lambda/wilds 4726775, examples/configs/datasets.py, of each data set; StepLR steps once an epoch
# (scheduler.py). Its transform image_base does not augment.
OTHERS: dict[str, dict[str, Any]] = {
    "camelyon17": {
        **CONSTANT_RATE,
        "model": "densenet121",
        "pretrained": False,
        "target_resolution": (96,),
        "batch_size": 32,
        "n_epochs": 10,
        "optimizer": "SGD",
        "optimizer_kwargs": {"momentum": 0.9},
        "lr": 1e-3,
        "weight_decay": 1e-2,
        "n_groups_per_batch": 2,
        "irm_lambda": 1.0,
        "coral_penalty_weight": 0.1,
        "dann_penalty_weight": 0.1,
    },
    "iwildcam": {
        **CONSTANT_RATE,
        "model": "resnet50",
        "target_resolution": (448,),
        "batch_size": 16,
        "n_epochs": 12,
        "optimizer": "Adam",
        "lr": 3e-5,
        "weight_decay": 0.0,
        "n_groups_per_batch": 2,
        "irm_lambda": 1.0,
        "coral_penalty_weight": 10.0,
        "dann_penalty_weight": 0.1,
    },
    "fmow": {
        **CONSTANT_RATE,
        "model": "densenet121",
        "batch_size": 32,
        "n_epochs": 60,
        "optimizer": "Adam",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "scheduler": "StepLR",
        "scheduler_kwargs": {"step_size": 1, "gamma": 0.96},
        "n_groups_per_batch": 8,
        "irm_lambda": 1.0,
        "coral_penalty_weight": 0.1,
        "dann_penalty_weight": 1.0,
    },
}


def preset_values(preset: str, dataset: str) -> dict[str, Any]:
    """Flag name -> value of a preset on a data set, single methods' flags among them."""
    return OTHERS[dataset] if preset == "wilds" and dataset in OTHERS else PRESETS[preset]
