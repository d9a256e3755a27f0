"""The numbers of the paper and of WILDS, each with its source."""

from __future__ import annotations

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


PRESETS: dict[str, dict[str, Any]] = {"paper": PAPER, "wilds": WILDS}
