"""Tables whose `.values` are copies, for code that writes into them.

pandas 3 hands out read-only views; WILDS 2.0's RxRx1 writes its splits into one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd


class Column(pd.Series):  # type: ignore[misc]
    """A Series with writable values."""

    @property
    def _constructor(self) -> type[Column]:
        return Column

    @property
    def values(self) -> Any:
        """A copy, as numpy."""
        return np.array(super().values)


class WritableTable(pd.DataFrame):  # type: ignore[misc]
    """A DataFrame whose columns have writable values."""

    @property
    def _constructor(self) -> type[WritableTable]:
        return WritableTable

    @property
    def _constructor_sliced(self) -> type[Column]:
        return Column


def read_csv(*args: Any, **kwargs: Any) -> WritableTable:
    """`pandas.read_csv` into such a table."""
    return WritableTable(pd.read_csv(*args, **kwargs))


@contextmanager
def handed(rows: pd.DataFrame) -> Iterator[None]:
    """Give WILDS' RxRx1 these rows of its metadata.csv, in which pandas would guess at NA and 001."""
    rxrx1: Any = importlib.import_module("wilds.datasets.rxrx1_dataset")
    before, rxrx1.pd = rxrx1.pd, SimpleNamespace(read_csv=lambda path: WritableTable(rows))
    try:
        yield
    finally:
        rxrx1.pd = before
