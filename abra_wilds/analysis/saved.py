"""A saved model and its data, and the bio-batches of a split as they are analysed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from abra_wilds.config.datasets import TTA_GROUPS
from abra_wilds.config.run import RunConfig
from abra_wilds.data.augment.transforms import augment
from abra_wilds.data.datasets.catalogue import is_simulated, make_grouper
from abra_wilds.data.reading.loaders import Loader
from abra_wilds.data.samplers.batches import RowIds, members_of
from abra_wilds.data.samplers.passes import BioBatch, PassSampler
from abra_wilds.engine.artifacts.folder import RunFolder
from abra_wilds.engine.artifacts.logs import no_bar
from abra_wilds.engine.evaluation.evaluate import bio_batches
from abra_wilds.engine.evaluation.results import load_method
from abra_wilds.engine.evaluation.saved import changed, located, saved_config
from abra_wilds.engine.setup import (
    Data,
    chosen_splits,
    open_dataset,
    open_splits,
    reading_kwargs,
    splits_to_evaluate,
)
from abra_wilds.errors import InputError
from abra_wilds.methods.base import Method
from abra_wilds.results.files import sha256, write_text
from abra_wilds.results.names import found, sign_in
from abra_wilds.types import Batch

ANALYSIS = "analysis"
IMAGES_PER_BIO_BATCH = 128  # that figures are computed from, at most


@dataclass(frozen=True)
class Saved:
    """A model of a run, and what it works on.

    Attributes:
        config: of the run, with the flags that were changed.
        setup: of the configuration.
        splits: those that were asked for.
        method: in evaluation mode, on the setup's device.
        folder: of the run.
        label: "best", "last" or the epoch.
        group: what a bio-batch is, "plate" or "experiment".
    """

    config: RunConfig
    setup: Data
    splits: Sequence[str]
    method: Method
    folder: RunFolder
    label: str
    group: str

    def about(self) -> dict[str, Any]:
        """What every row computed from it says of its origin."""
        c = self.config
        return {
            "method": c.algorithm,
            "dataset": c.data.dataset,
            "simulated": is_simulated(self.setup.dataset),
            "backbone": c.model.model,
            "seed": c.train.seed,
            "checkpoint": self.label,
            "config_sha256": c.digest(),
            "checkpoint_sha256": sha256(self.folder.model(self.label)),
        }

    def standardised(self, x: Tensor) -> Tensor:
        """Images (N, C_in, H, W) uint8 or uint16 as evaluation sees them, on the device."""
        d = self.config.data
        return augment(x.to(self.setup.device, non_blocking=True), d.plain, size=d.size)

    def members(self, split: str) -> dict[str, RowIds]:
        """The rows of each bio-batch of a split, by names such as "HEPG2-08 plate 1".

        Raises:
            InputError: for a split that does not exist.
        """
        subsets = self.setup.subsets
        if split not in subsets:
            raise InputError(f"there is no split {split!r}; choose among {', '.join(subsets)}")
        subset, fields = subsets[split], TTA_GROUPS[self.group]
        grouper = make_grouper(subset.dataset, fields)
        parts = members_of(grouper.metadata_to_group(subset.metadata_array).numpy())
        return {" plate ".join(self.named(split, rows[:1], fields)[0]): rows for rows in parts.values()}

    def named(self, split: str, rows: RowIds, fields: Sequence[str]) -> list[tuple[str, ...]]:
        """Metadata of some rows of a split, as texts."""
        dataset = self.setup.dataset
        values = self.setup.subsets[split].metadata_array[rows]
        columns = []
        for field in fields:
            column = values[:, list(dataset.metadata_fields).index(field)].tolist()
            names = dataset.metadata_map.get(field)
            columns.append([str(v) if names is None else str(names[v]) for v in column])
        return list(zip(*columns, strict=True))

    def read(self, split: str, parts: Mapping[str, RowIds], doing: str) -> Iterator[tuple[str, Batch]]:
        """The images of some bio-batches of a split, on the host, one bio-batch after the other.

        Args:
            split: of which.
            parts: name -> rows.
            doing: what the progress bar says.
        """
        subset, d = self.setup.subsets[split], self.config.data
        sampler = PassSampler([BioBatch((rows,), True) for rows in parts.values()], d.batch_size)
        loader = Loader(subset, self.setup.grouper, sampler, **reading_kwargs(d, self.setup.device))
        bar = tqdm(
            zip(parts, bio_batches(loader), strict=True),
            desc=f"{doing} {split}",
            total=len(parts),
            unit="bio-batch",
            disable=no_bar(self.config.train),
        )
        yield from ((name, passes[0]) for name, (passes, _) in bar)


def open_saved(
    checkpoint: Path,
    flags: Mapping[str, Any] | None = None,
    group: str = "plate",
    splits: Sequence[str] | None = None,
    *,
    train: bool = True,
) -> Saved:
    """A saved model with its data.

    Args:
        checkpoint: DATASET_seed:S_epoch:E_model.pth of a run, with the run's config.json beside it.
        flags: of `config.PREDICTION_FLAGS` those that differ from the run's.
        group: what a bio-batch is to the analysis, "plate" or "experiment".
        splits: whose images are read, train among them; None for all.
        train: whether all are with train.

    Raises:
        InputError: if there is no such model, or anything does not fit.
    """
    folder, label = located(checkpoint)
    config = changed(saved_config(folder), dict(flags or {}))
    dataset = open_dataset(config)
    evaluated = splits_to_evaluate(config, list(dataset.split_dict))
    known = ["train", *evaluated]
    chosen = (known if train else evaluated) if splits is None else chosen_splits(splits, known)
    setup = open_splits(config, dataset, chosen)
    method = load_method(config, setup, checkpoint)[0].eval()
    return Saved(config, setup, chosen, method, folder, label, group)


def sampled(members: Mapping[str, RowIds], most: int, seed: int) -> dict[str, RowIds]:
    """At most so many random rows of each bio-batch, in dataset order."""
    rng = np.random.default_rng([seed, most])
    return {name: np.sort(rng.permutation(rows)[:most]) for name, rows in members.items()}


def write_rows(saved: Saved, name: str, rows: Iterable[Any]) -> Path:
    """Write rows (dataclasses) as JSON lines into the folder `analysis` of the run; returns the file."""
    folder = saved.folder.path / ANALYSIS
    folder.mkdir(exist_ok=True)
    official = f"{name}_seed:{saved.folder.seed}_epoch:{saved.label}.jsonl"
    path = found(folder / official, sign_in(folder, official))
    about = {**saved.about(), "group": saved.group}
    write_text(path, "".join(json.dumps({**about, **asdict(row)}) + "\n" for row in rows))
    return path
