"""On what terms rows are compared: what must be the same for a test, and what is named where it differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A test of two rows says nothing about methods where these differ.
EQUAL = (
    *("bn_stats", "epoch", "val_metric", "val_metric_decreasing"),
    *("split_scheme", "split", "frac", "shuffle_labels"),
)
# Budget, images and first weights: a row may differ in them, and its table says so.
NAMED = (
    *("transform", "mix", "target_resolution", "packed_size"),
    *("model", "pretrained", "new_stem", "pretrained_model_path", "load_featurizer_only"),
    *("n_epochs", "batch_size", "world", "gradient_accumulation_steps", "accumulate", "amp"),
    *("optimizer", "optimizer_kwargs", "lr", "weight_decay", "max_grad_norm"),
    *("scheduler", "scheduler_kwargs", "warmup_epochs", "warmup_from"),
)
COMPARED = (*EQUAL, *NAMED)
WORDS = {"bn_stats": "batch-norm statistics", "epoch": "choice of the epoch"}


def terms_of(settings: Mapping[str, Any], epoch: str) -> dict[str, Any]:
    """The terms of a row.

    Args:
        settings: flag name -> value.
        epoch: how the epoch that counts was chosen.
    """
    return {name: settings[name] for name in COMPARED if name in settings} | {"epoch": epoch}


def differing_terms(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Names of the terms in which two rows differ; what an older run does not know is not compared."""
    return [name for name in COMPARED if name in a and name in b and a[name] != b[name]]


def terms_in_words(names: list[str]) -> str:
    """Terms in words."""
    return ", ".join(WORDS.get(name, f"--{name}") for name in names)
