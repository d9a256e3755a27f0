"""A method on several processes: each steps on a batch of its own, and gradients are averaged."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from abra_wilds.data.samplers.distributed import Rounds
from abra_wilds.dist import world
from abra_wilds.engine.setup import Setup
from abra_wilds.engine.step import Trained
from abra_wilds.methods.base import Method
from abra_wilds.types import Batch, StepOutput


class _LossAlone(nn.Module):
    """A method whose loss alone leads back to its parameters.

    Torch counts a parameter as used that it reaches from any output, and would wait for the gradient of one
    that only the logits need.
    """

    def __init__(self, method: Method):
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> StepOutput:
        out: StepOutput = self.method(batch)
        return out if out.logits is None else replace(out, logits=out.logits.detach())


class Parallel(DistributedDataParallel):
    """Torch's DDP around a method, which starts equal on all processes.

    Batch-norm statistics are each process's own on purpose: each has its own bio-batch.
    """

    def __init__(self, method: Method):
        super().__init__(
            _LossAlone(method), gradient_as_bucket_view=True, find_unused_parameters=method.idle_parameters
        )
        self.broadcast_buffers = False  # not by argument, whose name differs between versions of torch
        self.method = (method,)  # in a tuple, so that it is no second child

    def after_step(self) -> None:
        """The method's."""
        self.method[0].after_step()


def parallel(method: Method, optimizer: torch.optim.Optimizer) -> Trained:
    """What `step` is to be called with: the method itself where there is one process.

    Args:
        method: compiled, if it will be.
        optimizer: over its parameters; the others are left without gradient, since torch would wait for it.
    """
    if world() == 1:
        return method
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for p in method.parameters():
        p.requires_grad_(id(p) in trained)
    return Parallel(method)


def no_sync_unless(trained: Trained, take: bool) -> AbstractContextManager[None]:
    """Inside, gradients stay on their process unless the step is taken."""
    return nullcontext() if take or not isinstance(trained, Parallel) else trained.no_sync()


def process_lines(setup: Setup) -> list[str]:
    """For the log: how the batches of an epoch are dealt out to several processes."""
    sampler = setup.train_loader.sampler
    if not isinstance(sampler, Rounds):
        return []
    again = f"; the first {sampler.repeated} come twice, so that all take equally many"
    return [
        f"{sampler.world} processes, each taking {len(sampler):,} of the {len(sampler.whole):,} batches "
        f"of an epoch{again if sampler.repeated else ''}"
    ]
