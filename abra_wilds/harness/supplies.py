"""What a checkout of WILDS imports and today's transformers no longer gives, supplied in memory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from abra_wilds.compat.imports import forget
from abra_wilds.config.optim import OptimConfig
from abra_wilds.engine.schedule import learning_rate
from abra_wilds.errors import InputError

ABSENT = object()


def schedule(name: str) -> Callable[..., torch.optim.lr_scheduler.LambdaLR]:
    """A schedule under transformers' signature: (optimizer, num_warmup_steps, num_training_steps)."""

    def make(
        optimizer: torch.optim.Optimizer, num_warmup_steps: int, num_training_steps: int
    ) -> torch.optim.lr_scheduler.LambdaLR:
        kwargs = {"num_warmup_steps": num_warmup_steps}
        course = OptimConfig(lr=1.0, n_epochs=num_training_steps, scheduler=name, scheduler_kwargs=kwargs)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(course, step, 1))

    return make


class Refusing:
    """Stands where a class of transformers is imported by name but not needed for images."""

    def __init__(self, *_: Any, **__: Any):
        raise self.error()

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> Any:
        """Refuse, as transformers' own would load a model of text."""
        raise cls.error()

    @classmethod
    def error(cls) -> InputError:
        """Says what is missing."""
        return InputError(
            f"this needs {cls.__name__} of transformers, which is not installed; pip install it"
        )


TOKENIZERS = ("BertTokenizerFast", "DistilBertTokenizerFast")
# In the order in which a checkout's scripts import them.
SUPPLIED_NAMES: dict[str, Any] = {
    "AdamW": torch.optim.AdamW,
    **{name: type(name, (Refusing,), {}) for name in TOKENIZERS},
    "get_linear_schedule_with_warmup": schedule("linear_schedule_with_warmup"),
    "get_cosine_schedule_with_warmup": schedule("cosine_schedule_with_warmup"),
}


def installed() -> ModuleType | None:
    """transformers, or None where it cannot be imported, for whatever reason its own requirements give."""
    try:
        return importlib.import_module("transformers")
    except Exception:  # whatever it, or a package it needs, raises
        forget("transformers")
        return None


def missing_packages(module: ModuleType | None) -> list[str]:
    """The names a checkout imports that this transformers does not have."""

    def has(name: str) -> bool:
        try:
            return hasattr(module, name)
        except Exception:  # transformers loads its parts when they are asked for
            return False

    return [name for name in SUPPLIED_NAMES if not has(name)]


def supplied_as(module: ModuleType | None, missing: list[str]) -> str:
    """What keeps a checkout's scripts from starting and what takes its place, or "" where nothing does."""
    if not missing:
        return ""
    found = "not importable" if module is None else f"{getattr(module, '__version__', '')} lacks names"
    shown = ", ".join(
        f"{name} ({'torch' if name == 'AdamW' else 'refuses' if name in TOKENIZERS else 'abra_wilds'})"
        for name in missing
    )
    return f"{found}; given: {shown}"


@contextmanager
def transformers_supplied() -> Iterator[str]:
    """Inside, transformers can be imported and has every name of NAMES; afterwards it is as before.

    Yields:
        What was supplied, in words; "" for nothing.
    """
    before = sys.modules.get("transformers", ABSENT)
    module = installed()
    missing = missing_packages(module)
    target = module or ModuleType("transformers", "What a checkout of WILDS imports from transformers.")
    for name in missing:
        setattr(target, name, SUPPLIED_NAMES[name])
    sys.modules["transformers"] = target
    try:
        yield supplied_as(module, missing)
    finally:
        for name in missing:
            delattr(target, name)
        if before is ABSENT:
            del sys.modules["transformers"]
        else:
            sys.modules["transformers"] = before  # type: ignore[assignment]
