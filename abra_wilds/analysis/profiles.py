"""Embeddings as profiles: the columns that JUMP's tools and pycytominer know, in parquet.

Metadata have names that begin with Metadata_, by which pycytominer (https://github.com/cytomining/pycytominer)
and copairs tell them from features. Features are called Cells_embedding_NUMBER, since pycytominer infers as
features what begins with Cells, Nuclei or Cytoplasm; that they describe whole images, it has no name for.
What pycytominer itself does is left to it: `pycytominer.normalize(frame, features="infer", method="spherize",
samples="Metadata_control_type == 'negcon'")` and the like read these files as they are, in a process that
does not load data: importing pycytominer turns copy-on-write of pandas on, and WILDS 2.0 then stops.

Letters: n rows of a split, D features, W wells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from abra_wilds.analysis.postprocess import Names
from abra_wilds.data.datasets.catalogue import is_simulated
from abra_wilds.data.datasets.controls import FIRST_CONTROL, N_CLASSES, check_well_types
from abra_wilds.data.datasets.layouts import find_layout
from abra_wilds.data.datasets.metadata import integers, read_metadata
from abra_wilds.data.datasets.quality import well_name
from abra_wilds.data.datasets.tables import read_table
from abra_wilds.errors import InputError
from abra_wilds.results.files import atomic_write

if TYPE_CHECKING:
    from wilds.datasets.wilds_dataset import WILDSDataset, WILDSSubset

# JUMP's words for the wells' types.
CONTROL_TYPES = {"treatment": "trt", "positive_control": "poscon", "negative_control": "negcon"}
# What makes one well of a file: sites in different splits are not averaged, nor cells of different classes,
# which a well holds where each of its cells was labelled by itself.
WELL = ("Metadata_split", "Metadata_Plate", "Metadata_Well", "Metadata_sirna_id")
# The well that was treated, whatever splits its sites are in.
TREATED_WELL = WELL[1:]


def metadata_of(subset: WILDSSubset, split: str, types: NDArray[np.str_] | None) -> pd.DataFrame:
    """The Metadata_ columns of a split's images, (n rows), in dataset order.

    Args:
        subset: the split.
        split: its name.
        types: of all rows of the data set, from `control_types`.
    """
    dataset = subset.dataset
    codes = dict(zip(dataset.metadata_fields, subset.metadata_array.numpy().T, strict=True))

    def texts(field: str) -> NDArray[np.object_]:
        names = np.array([str(name) for name in dataset.metadata_map[field]], dtype=object)
        return names[codes[field]]

    experiment, named = texts("experiment"), dataset.metadata_map
    numbered = zip(experiment, codes["plate"], strict=True)
    columns: dict[str, Any] = {
        "Metadata_Source": dataset.dataset_name,
        "Metadata_Batch": experiment,
        "Metadata_Plate": texts("plate") if "plate" in named else [f"{e}_{n}" for e, n in numbered],
        "Metadata_Well": [well_name(name) for name in texts("well")],
        "Metadata_Site": texts("site") if "site" in named else codes["site"],
        "Metadata_Cell_Line": texts("cell_type"),
        "Metadata_sirna_id": codes["y"],
        "Metadata_split": split,
        "Metadata_simulated": is_simulated(dataset),
    }
    if hasattr(dataset, "class_names"):
        columns["Metadata_Label"] = np.array(dataset.class_names, dtype=object)[codes["y"]]
    if types is not None:
        columns["Metadata_control_type"] = types[subset.indices].astype(object)
    return pd.DataFrame(columns, index=pd.RangeIndex(len(subset)))


def control_types(dataset: WILDSDataset, root_dir: str | Path) -> NDArray[np.str_] | None:
    """What each row of the data set shows, (n,), in JUMP's words; None if nothing says it.

    A screen of one's own says it by its columns. Without a column well_type, RxRx1's class ids say it where
    there are exactly its classes.

    Args:
        dataset: from `load_dataset`.
        root_dir: that it was loaded from.

    Raises:
        InputError: if the column well_type holds anything else.
    """
    if hasattr(dataset, "well_kinds"):
        known = dataset.well_kinds
        return None if known is None else np.array([CONTROL_TYPES[kind] for kind in known])
    if dataset.dataset_name == "rxrx1_6ch":
        layout = find_layout(Path(root_dir))
        rows, path = layout.rows, layout.table
    else:
        path = Path(dataset.data_dir) / "metadata.csv"
        rows = read_metadata(path)
    kinds = rows.get("well_type")
    if kinds is not None:
        check_well_types(kinds, path)
        return np.array([CONTROL_TYPES[kind] for kind in kinds])
    if dataset.n_classes != N_CLASSES:
        return None
    y = rows["sirna_id"].to_numpy()
    return np.select([y < FIRST_CONTROL, y == N_CLASSES - 1], ["trt", "negcon"], "poscon")


def annotation_column(name: str) -> str:
    """What the column of an annotation is called in tables of profiles.

    >>> annotation_column("gene"), annotation_column("Metadata_Gene")
    ('Metadata_gene', 'Metadata_Gene')
    """
    return f"Metadata_{name.removeprefix('Metadata_')}"


def annotation_of(table: pd.DataFrame, dataset: WILDSDataset, root_dir: str | Path, name: str) -> Names:
    """What a column of the metadata says of the class of each row, (n,), as text.

    Args:
        table: (n rows) from `metadata_of`.
        dataset: from `load_dataset`.
        root_dir: that it was loaded from.
        name: of the column.

    Raises:
        InputError: if there is no such column.
    """
    if hasattr(dataset, "sites"):
        if name not in dataset.sites.rows:
            columns = ", ".join(map(str, dataset.sites.rows))
            raise InputError(
                f"--annotation {name} is no column of {dataset.sites.source}; give one of {columns}"
            )
        known = dict(zip(dataset.y_array.tolist(), dataset.sites.rows[name], strict=True))
    else:
        is_six = dataset.dataset_name == "rxrx1_6ch"
        path = find_layout(Path(root_dir)).table if is_six else Path(dataset.data_dir) / "metadata.csv"
        rows = read_table(path, ["sirna_id", name]).drop_duplicates("sirna_id")
        known = dict(zip(integers(rows["sirna_id"], path).tolist(), rows[name], strict=True))
    return np.array([known[y] for y in table["Metadata_sirna_id"].tolist()], dtype=object)


def controls_of(table: pd.DataFrame) -> NDArray[np.bool_] | None:
    """Whether each row of `metadata_of` shows a control well, or None if it is not known."""
    kinds = table.get("Metadata_control_type")
    return None if kinds is None else (kinds != "trt").to_numpy(dtype=bool)


def wells_of(table: pd.DataFrame, by: Sequence[str] = WELL) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """The number of each row's well, (n,), and the metadata of wells, (W rows), in order of first appearance.

    Args:
        table: (n rows) from `metadata_of`.
        by: what makes one well, WELL or TREATED_WELL.
    """
    well = table.groupby(list(by), sort=False).ngroup().to_numpy()
    wells = table.iloc[np.unique(well, return_index=True)[1]].drop(columns="Metadata_Site")
    at = wells.columns.get_loc("Metadata_Well") + 1
    wells.insert(at, "Metadata_Site_Count", np.bincount(well))
    return well, wells.reset_index(drop=True)


def well_means(
    features: NDArray[np.float32], well: NDArray[np.int64], counted: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """The mean of each well's sites, (W, D), from features (n, D) and the numbers of `wells_of`.

    Args:
        features: (n, D).
        well: (n,) from 0 without gaps.
        counted: (n,) which sites count, one of each well or more; None for all.
    """
    if counted is not None:
        features, well = features[counted], well[counted]
    order, sites = np.argsort(well, kind="stable"), np.bincount(well)
    starts = np.cumsum(sites) - sites
    sums = np.add.reduceat(features[order], starts, axis=0, dtype=np.float64)
    return (sums / sites[:, None]).astype(np.float32)


def feature_names(D: int) -> list[str]:
    """The names of D feature columns."""
    return [f"Cells_embedding_{d:04}" for d in range(D)]


def write_profiles(
    path: Path, features: NDArray[np.float32], table: pd.DataFrame, about: Mapping[str, Any]
) -> None:
    """Write metadata and features side by side, one row a profile.

    Args:
        path: of the file.
        features: (n, D).
        table: (n rows).
        about: where they come from, kept as JSON in the file's own metadata under the key abra_wilds.
    """
    frame = pd.DataFrame(features, columns=feature_names(features.shape[1]))
    found = pa.Table.from_pandas(pd.concat([table, frame], axis=1), preserve_index=False)
    found = found.replace_schema_metadata({**found.schema.metadata, "abra_wilds": json.dumps(about)})
    with atomic_write(path) as temporary:
        pq.write_table(found, temporary)
