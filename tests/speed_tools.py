"""Simulated images in memory, and short trainings of a tiny network on them in any precision."""

from __future__ import annotations

import functools

import numpy as np
import torch

from abra_wilds.config.optim import OptimConfig
from abra_wilds.config.precision import SpeedConfig
from abra_wilds.data.augment.transforms import augment
from abra_wilds.engine.precision import configure_precision, make_scaler
from abra_wilds.engine.schedule import make_optimizer
from abra_wilds.engine.step import step
from abra_wilds.methods import METHODS
from abra_wilds.simulate import Well, preset, site_picture
from abra_wilds.types import Batch, StepContext, Target
from tests.helpers import make_info
from tests.runs import tiny_backbone

CPU = torch.device("cpu")
LR = 1e-3


@functools.cache
def simulated(plates=4, classes=4, side=48):
    """Batches of two sites of each class, each batch one plate of a simulated screen."""
    config = preset("mini", image_size=side, classes=20)
    batches = []
    for plate in range(plates):
        wells = [Well("HEPG2", plate, 1, k, "treatment", k) for k in range(classes)]
        x = np.stack([site_picture(config, well, site) for well in wells for site in (1, 2)])
        y, n = torch.arange(classes).repeat_interleave(2), 2 * classes
        g, rows = torch.full((n,), plate), torch.arange(n)
        images = augment(torch.from_numpy(x), "none")
        batches.append(Batch(images, Target(y), g, torch.stack([g, g], 1), rows, (rows,)))
    return batches


def prepared(name, cfg=None, build=tiny_backbone, **speed):
    """A method on a network of its own, as configured, its optimiser and its scaler."""
    torch.manual_seed(0)
    cls = METHODS[name]
    method = cls(build("tiny", 3, False, False), make_info(), cls.Config() if cfg is None else cfg).train()
    config = SpeedConfig(**speed)
    configure_precision(method, config)
    return method, make_optimizer(OptimConfig(lr=LR), method), make_scaler(config, CPU)


def take(method, optimizer, scaler, batch, seed):
    """One seeded step; its output."""
    torch.manual_seed(seed)
    method.context = StepContext(LR, log=True)
    return step(method, batch, optimizer, max_norm=10.0, scaler=scaler)


def losses(name, steps=50, cfg=None, **speed):
    """The loss of each step, (steps,), and the method after them."""
    method, *rest = prepared(name, cfg, **speed)
    batches = simulated()
    found = [take(method, *rest, batches[i % len(batches)], i).loss.detach() for i in range(steps)]
    return torch.stack(found), method
