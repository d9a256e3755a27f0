"""Which model first weights are of, and what of its channels and classes a run has under the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abra_wilds.config.model import ModelConfig
from abra_wilds.errors import InputError
from abra_wilds.results.names import all_found, read_model_name
from abra_wilds.results.records import CONFIG
from abra_wilds.results.runs import read_json
from abra_wilds.types import DataInfo

TENSORS = "model.safetensors"  # the weights in a model's folder
FIRST = ("best", "last")  # epochs whose model stands for a run, the first that is there
Sources = Sequence[int | None]  # for each name its number in the other model, None where that has none


@dataclass(frozen=True)
class Origin:
    """A file of weights, with what is known of the model.

    Attributes:
        path: of the file.
        classes: of its classifier; empty where nothing names them.
        channels: of its images; empty where nothing names them.
    """

    path: Path
    classes: tuple[str, ...]
    channels: tuple[str, ...]

    def stem(self, info: DataInfo) -> Sources | None:
        """Where each channel of a run is among the model's; None where they are the same, or not named."""
        return sources(info.channels, self.channels)

    def head(self, info: DataInfo) -> Sources | None:
        """Where each class of a run is among the model's; None where they are the same, or not named."""
        return sources(info.classes, self.classes)


def origin_of(path: Path) -> Origin:
    """The weights at a path: a model's folder, that of a run, one of its checkpoints, or any other file.

    Raises:
        InputError: for a folder that holds no model.
    """
    file = weights_in(path) if path.is_dir() else path
    known = file.name == TENSORS or read_model_name(file.name) is not None
    data = read_json(file.with_name(CONFIG)).get("data") if known else None
    data = data if isinstance(data, Mapping) else {}
    return Origin(file, names(data.get("classes")), names(data.get("channels")))


def weights_in(folder: Path) -> Path:
    """The file of the model that stands for a folder, of a model or of a run.

    Raises:
        InputError: if it has none.
    """
    if (folder / TENSORS).is_file():
        return folder / TENSORS
    for label in FIRST:
        for path in sorted(all_found(folder, f"*_epoch:{label}_model.pth")):
            return path
    raise InputError(f"{folder} holds no model: neither {TENSORS} nor ..._epoch:best_model.pth")


def names(value: Any) -> tuple[str, ...]:
    """The names in a list of texts; none for anything else."""
    return tuple(map(str, value)) if isinstance(value, list) else ()


def sources(own: Sequence[str], theirs: Sequence[str]) -> Sources | None:
    """Where each own name is among others, whatever the case; None where both are the same, or one is empty.

    >>> sources(("DNA", "ER", "AGP"), ("agp", "dna")), sources(("DNA",), ("dna",))
    ([1, None, 0], None)
    """
    at = {name.casefold(): k for k, name in enumerate(theirs)}
    found = [at.get(name.casefold()) for name in own]
    same = found == list(range(len(theirs)))
    return None if not own or not theirs or same else found


def by_channel(weight: Tensor, stem: Sources) -> Tensor:
    """A first convolution (D, C, h, w) for other channels, (D, len(stem), h, w).

    A channel that the model knows keeps its filters. One that it does not know starts from the mean of all
    its filters, which look for the edges and blobs that every stain shows; batch norm after them takes up
    that more or fewer channels are summed.

    Raises:
        InputError: if the convolution has fewer channels than were named.
    """
    check_named(stem, weight.shape[1], "channels")
    mean = weight.mean(1)
    return torch.stack([mean if k is None else weight[:, k] for k in stem], 1)


def by_class(own: Tensor, theirs: Tensor, head: Sources) -> Tensor:
    """Rows of a classifier, (O, ...): those of classes that the model knows from it, others as they are.

    Raises:
        InputError: if the classifier has fewer classes than were named.
    """
    check_named(head, len(theirs), "classes")
    return torch.stack([own[row] if k is None else theirs[k].to(own) for row, k in enumerate(head)])


def check_named(found: Sources, n: int, what: str) -> None:
    """Raise where more names than weights are known of a model.

    Raises:
        InputError: with both numbers.
    """
    most = max((k for k in found if k is not None), default=-1)
    if most >= n:
        raise InputError(
            f"config.json of the weights names {most + 1} {what} or more, and they have {n}; copy both again"
        )


def start_lines(m: ModelConfig, info: DataInfo) -> list[str]:
    """For the log: what of a model's channels and classes a run starts from, where they are not the same."""
    if m.pretrained_model_path is None:
        return []
    origin = origin_of(Path(m.pretrained_model_path))
    stem, head = origin.stem(info), None if m.load_featurizer_only else origin.head(info)
    said = []
    if stem is not None:
        new = [name for name, k in zip(info.channels, stem, strict=True) if k is None]
        said.append(
            f"channels by name, {len(stem) - len(new)} of {len(stem)} known"
            + (f" and the mean of its filters for {', '.join(new)}" if new else "")
        )
    if head is not None:
        known = sum(k is not None for k in head)
        said.append(f"classes by name, {known} of {len(head)} known and the others fresh")
    return [f"starting from {origin.path}: {'; '.join(said)}"] if said else []
