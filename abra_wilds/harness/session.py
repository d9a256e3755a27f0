"""Opening a checkout: its scripts become importable by their bare names, and afterwards nothing is left."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from PIL import ImageFile

from abra_wilds.compat.imports import SUPPLIED, import_wilds
from abra_wilds.harness.checkout import Checkout
from abra_wilds.harness.supplies import ABSENT, transformers_supplied


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, owner.name is value."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def entries(mapping: MutableMapping[Any, Any], values: Mapping[Any, Any]) -> Iterator[None]:
    """Inside, the mapping holds these values, or lacks those that are ABSENT."""
    before = {key: mapping.get(key, ABSENT) for key in values}
    _put(mapping, values)
    try:
        yield
    finally:
        _put(mapping, before)


def _put(mapping: MutableMapping[Any, Any], values: Mapping[Any, Any]) -> None:
    for key, value in values.items():
        if value is ABSENT:
            mapping.pop(key, None)
        else:
            mapping[key] = value


class Unclosed:
    """A stream that stays open: WILDS' Logger closes stdout when a run ends."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Flush only; a Logger closes once more when it is collected, which may be after the stream's end."""
        if not self._stream.closed:
            self._stream.flush()


@contextmanager
def open_session(checkout: Checkout) -> Iterator[dict[str, str]]:
    """Inside, the checkout's scripts can be imported by bare names; afterwards this process is as before.

    Its modules, the path, the streams, torch's and Pillow's switches and the environment are put back. No
    bytecode is written, so the checkout stays as it is.

    Yields:
        What was supplied in memory, by package, in words.
    """
    import_wilds()
    with ExitStack() as undo:
        supplied = undo.enter_context(transformers_supplied())
        undo.enter_context(entries(os.environ, {"PYTHONDONTWRITEBYTECODE": "1"}))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ABSENT)
        undo.enter_context(entries(os.environ, {"CUDA_VISIBLE_DEVICES": visible}))
        undo.enter_context(attribute(sys, "dont_write_bytecode", True))
        undo.enter_context(attribute(sys, "path", [str(checkout.examples), *sys.path]))
        undo.enter_context(attribute(sys, "argv", list(sys.argv)))
        undo.enter_context(attribute(sys, "stdout", Unclosed(sys.stdout)))
        undo.enter_context(attribute(ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES))
        for switch in ("benchmark", "deterministic"):
            undo.enter_context(attribute(torch.backends.cudnn, switch, getattr(torch.backends.cudnn, switch)))
        undo.enter_context(torch.set_grad_enabled(torch.is_grad_enabled()))
        undo.enter_context(bare_modules(checkout))
        yield SUPPLIED | ({"transformers": supplied} if supplied else {})


@contextmanager
def bare_modules(checkout: Checkout) -> Iterator[None]:
    """Inside, the checkout's bare names are its own; modules of the same names come back afterwards."""
    names = checkout.modules()

    def taken() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in names]

    others = {name: sys.modules.pop(name) for name in taken()}
    try:
        yield
    finally:
        for name in taken():
            del sys.modules[name]
        sys.modules.update(others)
