"""What a run would do and need, without doing it."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abra_wilds.config.run import RunConfig
from abra_wilds.data.augment.transforms import CROP, CROP_TO
from abra_wilds.data.reading.loaders import coverage
from abra_wilds.engine.artifacts.folder import folder_of
from abra_wilds.engine.checks import check_method
from abra_wilds.engine.parallel import process_lines
from abra_wilds.engine.setup import Setup, batch_lines, build_method, prepare
from abra_wilds.methods.base import Method
from abra_wilds.types import Batch, DataInfo, StepContext, Target, ViewPlan

MIB = 2**20
MOMENTS = {"Adam": 2, "AdamW": 2, "SGD": 1}


def dry_run(config: RunConfig) -> str:
    """The resolved settings with their origins, coverage, steps, and estimates of disk and memory.

    Raises:
        InputError: as training would.
    """
    setup = prepare(config)
    loader = setup.train_loader
    steps = setup.steps_per_epoch(config.optim.gradient_accumulation_steps)
    with torch.device("meta"):
        method = build_method(config, setup.info, load=False)
    check_method(config, setup, method)
    weights = 4 * sum(p.numel() for p in method.parameters()) + sum(
        b.numel() * b.element_size() for b in method.buffers()
    )
    moments = weights * MOMENTS[config.optim.optimizer]
    activations = activation_bytes(
        method,
        setup.info,
        config.data.batch_size,
        *image_size(config, setup),
        half=config.speed.amp != "none",
    )
    values = config.values()
    width = max(map(len, values))
    lines = [
        f"{config.algorithm} on {config.data.dataset}, preset {config.preset}; digest {config.digest()[:12]}",
        *(f"  {name:{width}}  {shown(v)}  ({config.origin.get(name, 'flag')})" for name, v in values.items()),
        *process_lines(setup),
        *batch_lines(config, setup),
        f"bio-batch: one {config.data.bio_batch}; {len(setup.info.train_groups)} in training",
        *setup.data_lines(),
        f"an epoch: {len(loader):,} batches, {steps:,} steps, {loader.images_per_epoch:,} images drawn, "
        f"{100 * coverage(loader):.1f} % of the training images touched",
        f"the run: {steps * config.optim.n_epochs:,} steps{head_steps(method)}",
        *disk_lines(config, setup, method, weights, moments),
        f"memory on {setup.device}, estimated: {(2 * weights + moments + activations) / MIB:,.0f} MiB "
        f"(weights {weights / MIB:,.0f}, gradients {weights / MIB:,.0f}, optimiser {moments / MIB:,.0f}, "
        "kept for the backward "
        f"pass {activations / MIB:,.0f})",
    ]
    return "\n".join(lines)


def head_steps(method: Method) -> str:
    """What follows the epochs over images, in words."""
    phase = method.head_phase()
    return "" if phase is None else f", then {phase.epochs} epochs of the classifier on frozen features"


def shown(value: Any) -> str:
    """A setting as one would write it after its flag."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def disk_lines(config: RunConfig, setup: Setup, method: Method, weights: int, moments: int) -> list[str]:
    """What checkpoints and predictions need, and what is free where they go."""
    t, phase = config.train, method.head_phase()
    epochs = config.optim.n_epochs + (phase.epochs if phase else 0)
    extra = 0 if t.save_step is None else epochs // t.save_step
    models = t.save_best * weights + t.save_last * (weights + moments) + (extra + t.save_model) * weights
    labels = t.save_best + t.save_last + extra
    predictions = (
        5 * labels * sum(len(s) for name, s in setup.subsets.items() if name != "train") * t.save_pred
    )
    folder = Path(t.log_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    names = replace(folder_of(config), path=folder)
    with suppress(OSError):  # training will say so
        names = names.writable()
    return [
        *names.sign_lines(),
        f"disk, estimated: {(models + predictions) / MIB:,.0f} MiB in {t.log_dir}; {free / MIB:,.0f} MiB "
        "are free",
    ]


def image_size(config: RunConfig, setup: Setup) -> tuple[int, int]:
    """(H, W) of training images as the network sees them."""
    if config.data.size is not None:
        return config.data.size
    _, H, W = setup.shape
    return (CROP_TO, CROP_TO) if config.data.transform == "paper" and H > CROP else (H, W)


def activation_bytes(method: Method, info: DataInfo, n: int, H: int, W: int, half: bool = False) -> int:
    """Bytes that autograd keeps for the backward pass of one batch, counted on tensors without storage.

    Autocast knows no such tensors, so that under half precision maps and tokens count half.

    Args:
        method: on the meta device.
        info: of the data.
        n: images of the batch.
        H: height of an image.
        W: width of an image.
        half: whether the backbone runs in half precision.
    """
    kept: dict[int, tuple[int, Tensor]] = {}
    parameters = {id(p) for p in method.parameters()}

    def count(t: Tensor) -> Tensor:
        if id(t) not in parameters:
            size = t.numel() * t.element_size() // (2 if half and t.dim() > 2 else 1)
            kept[id(t)] = (size, t)  # the tensor itself keeps its id from being used again
        return t

    method.train()
    method.context = StepContext(lr=1e-3, log=False)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        out = method(meta_batch(info, n, H, W, method.view_plan()))
    found = sum(size for size, _ in kept.values())
    del out
    return found


def meta_batch(info: DataInfo, n: int, H: int, W: int, plan: ViewPlan | None) -> Batch:
    """A batch of one bio-batch on the meta device, with the views of a plan: shapes without content."""
    ids = torch.zeros(n, dtype=torch.int64, device="meta")
    x = torch.empty(n, info.in_channels, H, W, device="meta")
    sides = [(s or H, s or W) for s in plan.sizes] if plan else []
    views = tuple(torch.empty(n, info.in_channels, *side, device="meta") for side in sides)
    return Batch(x, Target(ids), ids, ids[:, None], ids, (ids,), views)
