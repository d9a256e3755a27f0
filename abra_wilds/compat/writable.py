"""Tables whose `.values` are copies, for code that writes into them.

pandas 3 hands out read-only views; WILDS 2.0's RxRx1 writes its splits into one. Imported only where pandas
is that new.
"""

from __future__ import annotations

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
