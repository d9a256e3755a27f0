"""Tables of any kind as text: csv as people save it, and parquet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from abra_wilds.data.datasets.tables import read_table
from abra_wilds.errors import InputError

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".txt")


def is_table(path: Path) -> bool:
    """Whether a path has the name of a table."""
    return path.suffix.lower() in (*TEXT, *PARQUET)


def read_text(path: Path) -> pd.DataFrame:
    """All columns of a table, every value the text that stands there, "" where nothing does.

    Returns:
        A frame whose index, called "line" or "row", says where each row stands: lines of a csv, rows of a
        parquet from 0.

    Raises:
        InputError: if it is no table, or has no rows.
    """
    return _parquet(path) if path.suffix.lower() in PARQUET else read_table(path, [], optional=None)


def _parquet(path: Path) -> pd.DataFrame:
    # Most screens are not parquet, and importing them stays quick.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        columns = {name: table[name].cast(pa.string()).to_pylist() for name in table.column_names}
    except (OSError, ValueError, NotImplementedError) as fault:  # pyarrow's own are kinds of these
        reason = str(fault).partition("\n")[0]
        raise InputError(
            f"{path} cannot be read as a parquet table of texts and numbers ({reason})"
        ) from fault
    if not table.num_rows:
        raise InputError(f"{path} has no rows; restore the file")
    rows = pd.DataFrame(columns, dtype=object).fillna("")
    rows.index.name = "row"
    return rows
