"""From a configuration to data, loaders and method.

Everything a user can get wrong is met here, before training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from abra_wilds.config.data import DataConfig
from abra_wilds.config.evaluation import EvalConfig
from abra_wilds.config.run import RunConfig
from abra_wilds.data.augment.transforms import check_colours, check_square, crop_side
from abra_wilds.data.datasets.catalogue import data_info, load_dataset, make_grouper, split_subset
from abra_wilds.data.datasets.counts import data_lines
from abra_wilds.data.datasets.quality import with_shuffled_labels, without_flagged
from abra_wilds.data.reading.images import check_images, common_shape, first_rows
from abra_wilds.data.reading.loaders import (
    Loader,
    Reading,
    make_eval_loader,
    make_plain_loader,
    make_train_loader,
)
from abra_wilds.data.samplers.batches import GroupSampler
from abra_wilds.data.samplers.distributed import evaluation_share
from abra_wilds.data.samplers.passes import PassSampler
from abra_wilds.dist import local_world, world
from abra_wilds.engine.artifacts.origins import origin_of
from abra_wilds.engine.artifacts.weights import load_backbone, load_head, refuse_random_stem
from abra_wilds.engine.device import pick_device
from abra_wilds.engine.precision import check_speed
from abra_wilds.engine.schedule import warmup_lines
from abra_wilds.methods import get_method
from abra_wilds.methods.base import Method
from abra_wilds.nets.backbones import build_net, by_timm
from abra_wilds.pools import usable_cores
from abra_wilds.tta.adapters import check_adaptable
from abra_wilds.tta.plan import check_plans, split_plan
from abra_wilds.types import DataInfo, InputError

if TYPE_CHECKING:
    from wilds.common.grouper import CombinatorialGrouper
    from wilds.datasets.wilds_dataset import WILDSDataset, WILDSSubset


@dataclass(frozen=True)
class Data:
    """A data set with its splits and bio-batches; no image of it is open.

    Attributes:
        dataset: the whole WILDS data set.
        grouper: maps metadata to bio-batch ids.
        subsets: the splits that are used, and "train", of which methods know the bio-batches.
        shape: (C, H, W) of an image.
        info: what methods may know of the data.
        device: where the method lives.
        remarks: for the log, what of a split is not as the data set has it.
    """

    dataset: WILDSDataset
    grouper: CombinatorialGrouper
    subsets: Mapping[str, WILDSSubset]
    shape: tuple[int, ...]
    info: DataInfo
    device: torch.device
    remarks: tuple[str, ...] = field(default=(), kw_only=True)

    def data_lines(self) -> list[str]:
        """How much each split has of what, and what deviates."""
        rows = {split: own.indices for split, own in self.subsets.items()}
        return [*data_lines(self.dataset, rows), *self.remarks]


@dataclass(frozen=True)
class Evaluation(Data):
    """What a model predicts.

    Attributes:
        eval_loaders: one for each split that is evaluated, "val" first where there is one.
    """

    eval_loaders: Mapping[str, Loader]


@dataclass(frozen=True)
class Setup(Evaluation):
    """What a run works on.

    Attributes:
        train_loader: batches for training.
        plain_loader: every training image in mixed batches, for batch-norm statistics.
    """

    train_loader: Loader
    plain_loader: Loader

    def steps_per_epoch(self, accumulation: int) -> int:
        """Optimiser steps of one epoch; the last may hold fewer batches."""
        return -(-len(self.train_loader) // accumulation)


def prepare(config: RunConfig) -> Setup:
    """Load, split and check the data of a run.

    Raises:
        InputError: one sentence for whatever cannot be used.
    """
    d, dataset = config.data, open_dataset(config)
    # The images of other splits need not be there.
    evaluated = splits_to_evaluate(config, list(dataset.split_dict))
    data = open_splits(config, dataset, ("train", *evaluated))
    if d.qc is not None:
        train, line = without_flagged(data.subsets["train"], Path(d.qc))
        data = replace(data, subsets={**data.subsets, "train": train}, remarks=(*data.remarks, line))
    check_val_metric(config, data.subsets)
    train_loader = training_loader(config, data)
    reading = reading_kwargs(d, data.device)
    plain_loader = make_plain_loader(data.subsets["train"], data.grouper, d.batch_size, **reading)
    loaders = evaluation_loaders(config, data, evaluated)
    setup = Setup(**vars(data), eval_loaders=loaders, train_loader=train_loader, plain_loader=plain_loader)
    check_square(d.transform, *data.shape[1:])
    check_colours(d.transform, data.shape[0])
    check_batches(config, setup)
    return setup


def open_dataset(config: RunConfig) -> WILDSDataset:
    """The data set of a configuration, its images untouched.

    Raises:
        InputError: for whatever of it cannot be used.
    """
    d = config.data
    return load_dataset(
        d.dataset,
        d.root_dir,
        d.version,
        d.split_scheme,
        data_format=d.data_format,
        packed_size=d.packed_size,
        screen=config.screen,
        size=d.size,
    )


def open_splits(config: RunConfig, dataset: WILDSDataset, splits: Sequence[str]) -> Data:
    """Some splits of a data set, whose images have to be there; those of others need not.

    Raises:
        InputError: for images that are missing, or a device that cannot do what is asked.
    """
    d = config.data
    # Train comes along without its images: methods and adaptations know its bio-batches by number.
    grouper = make_grouper(dataset, d.groupby_fields)
    subsets = {split: split_subset(dataset, split, d.frac) for split in dict.fromkeys(("train", *splits))}
    remarks = []
    if d.shuffle_labels is not None:
        subsets["train"], line = with_shuffled_labels(subsets["train"], d.shuffle_labels)
        remarks.append(line)
    check_images(dataset, np.concatenate([subsets[split].indices for split in splits]))
    device = pick_device(config.train.device[0])
    check_speed(config.speed, device)
    # A split of another size would be trained on, or predicted, as if it were the same.
    shape = common_shape(dataset, first_rows(dataset, [subsets[split].indices for split in splits]))
    info = data_info(dataset, subsets["train"], grouper, channels=shape[0])
    return Data(dataset, grouper, subsets, shape, info, device, remarks=tuple(remarks))


def open_evaluation(config: RunConfig, splits: Sequence[str] | None = None) -> Evaluation:
    """What a saved model predicts.

    Args:
        config: of the prediction.
        splits: which; None for those that the configuration evaluates.

    Raises:
        InputError: for a split that does not exist, or whatever cannot be used.
    """
    dataset = open_dataset(config)
    known = splits_to_evaluate(config, list(dataset.split_dict))
    chosen = known if splits is None else chosen_splits(splits, known)
    data = open_splits(config, dataset, chosen)
    return Evaluation(**vars(data), eval_loaders=evaluation_loaders(config, data, chosen))


def chosen_splits(splits: Sequence[str], known: Sequence[str]) -> list[str]:
    """The splits of --split, each once.

    Raises:
        InputError: for one that does not exist.
    """
    for split in splits:
        if split not in known:
            raise InputError(f"--split got {split!r}; choose among {', '.join(known)}")
    return list(dict.fromkeys(splits))


def training_loader(config: RunConfig, data: Data) -> Loader:
    """The batches that a run trains on, of windows alone where the transform would crop whole images."""
    d = config.data
    # Views are squares of whole images.
    views = get_method(config.algorithm).view_plan is not Method.view_plan
    return make_train_loader(
        data.subsets["train"],
        data.grouper,
        train_loader=d.train_loader,
        batch_size=d.batch_size,
        n_groups_per_batch=d.n_groups_per_batch,
        uniform_over_groups=d.uniform_over_groups,
        distinct_groups=d.distinct_groups,
        remainder=d.plate_remainder,
        pairs_cross=d.pairs_cross,
        n_controls=d.n_controls_per_batch,
        seed=config.train.seed,
        side=None if views else crop_side(d.transform, *data.shape[1:]),
        **reading_kwargs(d, data.device),
    )


def evaluation_loaders(config: RunConfig, data: Data, splits: Sequence[str]) -> dict[str, Loader]:
    """A loader of each split, in parts of bio-batches where a model is adapted to them.

    Raises:
        InputError: for an adaptation that finds too little everywhere.
    """
    subsets = {split: data.subsets[split] for split in splits}
    if config.eval.tta != "none":
        size = config.data.batch_size
        check_plans({s: split_plan(subset, config.eval, size) for s, subset in subsets.items()}, config.eval)
    return {
        split: adapted_loader(config, subset, data.grouper, data.device, config.eval)
        for split, subset in subsets.items()
    }


def adapted_loader(
    config: RunConfig,
    subset: WILDSSubset,
    grouper: CombinatorialGrouper,
    device: torch.device,
    e: EvalConfig,
) -> Loader:
    """The evaluation loader of a split for an adaptation, or for none."""
    d = config.data
    reading = reading_kwargs(d, device)
    if e.tta == "none":
        return make_eval_loader(
            subset, grouper, eval_loader=d.eval_loader, batch_size=d.batch_size, **reading
        )
    # Batches end where bio-batches do, so that each is adapted to its own images.
    plan = split_plan(subset, e, d.batch_size)
    return Loader(subset, grouper, evaluation_share(PassSampler(plan, d.batch_size)), **reading)


def check_batches(config: RunConfig, setup: Setup) -> None:
    """Raise for batches too small for batch norm, or fewer than processes or than a step accumulates.

    Raises:
        InputError: with the numbers.
    """
    loader, steps = setup.train_loader, config.optim.gradient_accumulation_steps
    batches = loader.sampler.whole
    if len(batches) < world():
        raise InputError(
            f"an epoch of {len(batches)} batches is too short for {world()} processes, each of which takes "
            "other batches; start fewer, or lower --batch_size"
        )
    # A step that never ends would move nothing.
    if steps > len(loader):
        raise InputError(
            f"--gradient_accumulation_steps {steps} is more than the {len(loader)} batches of an epoch; "
            "lower it or --batch_size"
        )
    plan = get_method(config.algorithm).plan
    if isinstance(batches, GroupSampler) and batches.n_groups_per_batch < plan.min_groups:
        raise InputError(
            f"{config.algorithm} compares at least {plan.min_groups} bio-batches per batch, and the training "
            f"split has {batches.n_groups_per_batch}; choose finer ones by --groupby_fields, or more data"
        )
    smallest = min(map(len, batches))
    if smallest < 2:
        raise InputError(
            f"--batch_size {config.data.batch_size} leaves a training batch of {smallest} image, "
            "and batch norm needs two; change it by one"
        )


def splits_to_evaluate(config: RunConfig, known: list[str]) -> list[str]:
    """The splits that are evaluated; val, which picks the best epoch, is the first where there is one.

    Raises:
        InputError: if one does not exist.
    """
    asked = (
        [s for s in known if s != "train"]
        if config.eval.evaluate_all_splits
        else list(config.eval.eval_splits)
    )
    for split in asked:
        if split not in known or split == "train":
            allowed = ", ".join(s for s in known if s != "train")
            raise InputError(f"--eval_splits got {split!r}; choose among {allowed}")
    return [*(["val"] if "val" in known else []), *(s for s in asked if s != "val")]


def check_val_metric(config: RunConfig, subsets: Mapping[str, WILDSSubset]) -> None:
    """Raise unless WILDS' evaluation of val has the entry of --val_metric.

    Raises:
        InputError: with the entries there are, or because no epoch is picked.
    """
    name, d = config.eval.val_metric, config.data
    if "val" not in subsets:
        for flag in ("val_metric", "val_metric_decreasing"):
            if config.origin.get(flag) == "flag":
                raise InputError(
                    f"--{flag} would have no effect: --split_scheme {d.split_scheme} of {d.dataset} has no "
                    "val to pick an epoch by, and the last one counts; leave it out"
                )
        return
    subset = subsets["val"]
    results, _ = subset.eval(subset.y_array, subset.y_array, subset.metadata_array)
    known = [k for k in results if not k.startswith("count")]
    if name not in known:
        raise InputError(
            f"--val_metric {name!r} is no entry of WILDS' evaluation; choose one of {', '.join(known)}"
        )


def reading_kwargs(d: DataConfig, device: torch.device) -> Reading:
    """Worker processes, and pinned memory where a GPU will copy from it.

    There are no more workers than cores that this process may run on, nor than an equal share of the
    machine's among its processes.
    """
    share = max((os.cpu_count() or 1) // local_world(), 1)
    return {
        "num_workers": min(workers_asked(d), usable_cores(), share),
        "pin_memory": bool(d.loader_kwargs.get("pin_memory", True)) and device.type == "cuda",
    }


def workers_asked(d: DataConfig) -> int:
    """What --loader_kwargs num_workers says."""
    return int(d.loader_kwargs.get("num_workers", 4))


def batch_lines(config: RunConfig, setup: Setup) -> list[str]:
    """For the log: what of the batches and the schedule is not as was asked."""
    steps = setup.steps_per_epoch(config.optim.gradient_accumulation_steps)
    return [*setup.train_loader.sampler.whole.notes, *warmup_lines(config.optim, steps)]


def reading_lines(d: DataConfig, device: torch.device) -> list[str]:
    """For the log: how many processes read images, where there are fewer than were asked for."""
    workers = reading_kwargs(d, device)["num_workers"]
    if workers == workers_asked(d):
        return []
    return [f"{workers} worker processes read images instead of {workers_asked(d)}: there are no more cores"]


def build_method(config: RunConfig, info: DataInfo, load: bool = True) -> Method:
    """The method on the host, with its first weights, which depend on the seed alone.

    Args:
        config: of the run.
        info: of the data.
        load: take pretrained weights where the configuration says so.

    Raises:
        InputError: if weights cannot be had or do not fit, or --tta finds nothing to adapt.
    """
    m = config.model
    # First weights depend on the seed alone, whatever was drawn before: methods compared have the same.
    torch.manual_seed(config.train.seed)
    path = Path(m.pretrained_model_path) if m.pretrained_model_path is not None and load else None
    pretrained = m.pretrained and load and path is None
    if pretrained and info.in_channels != 3 and not by_timm(m.model):
        refuse_random_stem(config, info)
    net = build_net(m.model, info.in_channels, pretrained, m.new_stem)
    if path is not None:
        origin = origin_of(path)
        weights, fresh = load_backbone(origin.path, net, m.new_stem, by_timm(m.model), stem=origin.stem(info))
        if fresh:
            refuse_random_stem(config, info)
    method = get_method(config.algorithm)(net, info, config.method)
    for e in (config.eval, *config.eval.alternatives()):
        check_adaptable(method, e)
    if path is not None and not m.load_featurizer_only:
        load_head(origin.path, weights, method, origin.head(info))
    return method
