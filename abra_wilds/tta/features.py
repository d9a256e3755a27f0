"""What a method's classifier reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from abra_wilds.config.evaluation import EMBEDDED
from abra_wilds.errors import InputError
from abra_wilds.methods.base import Method


@contextmanager
def classified(method: Method) -> Iterator[deque[Tensor]]:
    """Inside, the features (N, D) of each forward pass are kept, in order.

    They are caught at `classify`, not at the head, which is idle where ArcFace's cosines classify.
    """
    read: deque[Tensor] = deque()
    classify, nested = method.classify, "classify" in vars(method)

    def keep(f: Tensor) -> Tensor:
        read.append(f)
        return classify(f)

    method.classify = keep  # type: ignore[method-assign]
    try:
        yield read
    finally:
        if nested:
            method.classify = classify  # type: ignore[method-assign]
        else:
            del method.classify


def check_embeds(tta: str) -> None:
    """Raise for an adaptation that changes more than what the classifier reads.

    Raises:
        InputError: with those that do not.
    """
    if tta not in EMBEDDED:
        raise InputError(
            f"--tta {tta} learns or corrects predictions, which embeddings do not show; give --tta "
            f"{' or '.join(EMBEDDED)}"
        )
