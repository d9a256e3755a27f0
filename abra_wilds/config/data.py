"""Which images, in which batches: the flags of data, augmentation and loaders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from abra_wilds.config.datasets import DATASETS, SPLIT_SCHEMES
from abra_wilds.config.fields import Options, option, require, require_choice

TRAIN_LOADERS = ("plate", "group", "standard", "pairs", "controls")
MIXES = ("none", "cutmix", "cutmix_any", "lisa")
TRANSFORMS = ("rxrx1", "paper", "iid", "none", "imagenet")
DATA_FORMATS = ("png", "packed")
LEAST_SIDE = 32  # of images that are resized
MOST_WORKERS = 1024  # more are a slip of the pen that would end in a system without processes
MARKER = "SIMULATED.json"  # stands beside simulated images


@dataclass(frozen=True)
class DataConfig(Options):
    """Which images, in which batches."""

    dataset: str = option(
        "rxrx1",
        "data set: RxRx1-WILDS, RxRx1 with six stains, any --screen, or another image set of WILDS",
        choices=tuple(DATASETS),
    )
    root_dir: str = option("data", "folder that holds the data set's folder", local=True, path=True)
    version: str | None = option(None, "version of the data set; unset: the newest", kind=str)
    split_scheme: str | None = option(
        None,
        "which images train, validate and test; unset: the data set's first "
        f"[{'; '.join(f'{name}: ' + ', '.join(schemes) for name, schemes in SPLIT_SCHEMES.items())}]",
        kind=str,
    )
    data_format: str | None = option(
        None,
        "read images from their files or from a pack; unset: the pack if it is there and of these images",
        kind=str,
        choices=DATA_FORMATS,
        local=True,
    )
    packed_size: int = option(
        0, "side in pixels of the shrunk pack to read; 0: images as they are", at_least=0
    )
    qc: str | None = option(
        None,
        "table of abra-wilds qc whose flagged images are not trained on; unset: all are",
        kind=str,
        path=True,
        later=True,
    )
    shuffle_labels: int | None = option(
        None,
        "permute the labels of training images by this seed, to see that nothing is learned then; unset: as "
        "they are",
        kind=int,
        at_least=0,
        later=True,
    )
    frac: float = option(1.0, "share of every split to use, for trying things out", above=0, at_most=1)
    transform: str = option("rxrx1", "augmentation of training images", choices=TRANSFORMS)
    target_resolution: tuple[int, ...] = option(
        (),
        "height and width to which images are resized, or one for both",
        kind=int,
        at_least=LEAST_SIDE,
        at_most=4096,
    )
    mix: str = option("none", "CutMix inside a bio-batch, across the batch, or of pairs", choices=MIXES)
    cutmix_alpha: float = option(1.0, "CutMix of any kind: lambda is drawn from Beta(alpha, alpha)", above=0)
    cutmix_prob: float = option(1.0, "CutMix: probability that a batch is mixed", at_least=0, at_most=1)
    train_loader: str = option("standard", "how training batches are drawn", choices=TRAIN_LOADERS)
    groupby_fields: tuple[str, ...] = option(("experiment",), "metadata fields that define a bio-batch")
    uniform_over_groups: bool = option(False, "draw bio-batches uniformly, not by their size")
    distinct_groups: bool = option(True, "the bio-batches of one batch differ")
    n_groups_per_batch: int = option(4, "bio-batches in a batch of the group loader", at_least=1)
    pairs_cross: bool = option(True, "pairs loader: partners come from another bio-batch")
    n_controls_per_batch: int = option(
        0, "controls loader: control wells added to a batch; 0: the plate's", at_least=0
    )
    batch_size: int = option(72, "images per batch", at_least=2)
    plate_remainder: str = option(
        "even",
        "plate loader: cut a bio-batch into near-equal batches, or drop its remainder",
        choices=("even", "drop"),
    )
    eval_loader: str = option(
        "standard", "order in which images are predicted", choices=("standard", "group")
    )
    loader_kwargs: dict[str, Any] = option(
        {"num_workers": 4, "pin_memory": True}, "num_workers=N pin_memory=True|False", local=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        schemes = SPLIT_SCHEMES[self.dataset]
        if self.split_scheme is None:
            object.__setattr__(self, "split_scheme", schemes[0])
        allowed = f"one of {', '.join(schemes)} for --dataset {self.dataset}"
        require(self.split_scheme in schemes, "split_scheme", allowed, self.split_scheme)
        sides = self.target_resolution
        require(len(sides) <= 2, "target_resolution", "one side or two", sides)
        paired = self.mix != "lisa" or self.train_loader == "pairs"
        require(paired, "mix", "something else than lisa without --train_loader pairs", self.mix)
        for key in self.loader_kwargs:
            require_choice("loader_kwargs", key, ("num_workers", "pin_memory"))
        workers, pinned = self.loader_kwargs.get("num_workers", 0), self.loader_kwargs.get("pin_memory", True)
        fits = type(workers) is int and 0 <= workers <= MOST_WORKERS
        require(fits, "loader_kwargs num_workers", f"in [0, {MOST_WORKERS}]", workers)
        require(isinstance(pinned, bool), "loader_kwargs pin_memory", "true or false", pinned)
        # WILDS numbers groups in the data set's order whatever the order given, so the order means nothing.
        object.__setattr__(self, "groupby_fields", tuple(sorted(set(self.groupby_fields))))

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) to which images are resized, or None."""
        return (self.target_resolution[0], self.target_resolution[-1]) if self.target_resolution else None

    @property
    def plain(self) -> str:
        """The transform of evaluation: images as training has them, but for augmentation."""
        return "imagenet" if self.transform == "imagenet" else "none"

    @property
    def bio_batch(self) -> str:
        """What one bio-batch is: "plate", "experiment", or the fields that define it.

        Plates are numbered again in each experiment, so that a plate number alone is no plate.
        """
        named = {
            ("experiment",): "experiment",
            ("experiment", "plate"): "plate",
            ("plate",): "plate number over all experiments",
        }
        return named.get(self.groupby_fields, "+".join(self.groupby_fields))
