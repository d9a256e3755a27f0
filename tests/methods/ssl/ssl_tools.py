"""Batches with views, steps and comparisons for tests of self-supervised methods."""

from dataclasses import replace

import torch

from abra_wilds.types import StepContext
from tests.helpers import make_batch, make_info, tiny_net, tiny_vit

GLOBAL, LOCAL = 8, 4  # sides of crops in pixels; a patch has 2


def view_batch(sizes=(6, 6), n=6, seed=1, dtype=torch.float64, in_channels=3):
    """A batch whose views are noise around one pattern for each image."""
    batch = make_batch((0,) * n, seed, dtype=dtype, in_channels=in_channels)
    g = torch.Generator().manual_seed(seed)
    pattern = torch.randn(n, in_channels, 1, 1, generator=g, dtype=torch.float64)
    views = [
        pattern + 0.5 * torch.randn(n, in_channels, s, s, generator=g, dtype=torch.float64) for s in sizes
    ]
    return replace(batch, views=tuple(v.to(dtype) for v in views))


def build(cls, cfg=None, vit=False, seed=0, dtype=torch.float64, log=True, **context):
    """A self-supervised method on a tiny network, in training mode; context: epoch, progress."""
    net = (tiny_vit if vit else tiny_net)(seed)
    torch.manual_seed(seed + 100)
    method = cls(net, make_info(), cls.Config() if cfg is None else cfg).to(dtype)
    method.context = StepContext(0.1, log, **context)
    return method.train()


def sgd_step(method, batch, lr=0.1):
    """One step on the parameters that the method says are trained."""
    loss = method(batch).loss
    parameters = [p for group, _ in method.parameter_groups() for p in group if p.requires_grad]
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for p, g in zip(parameters, grads, strict=True):
            if g is not None:
                p -= lr * g
    method.after_step()


def states(method, of):
    """{name: copy} of the student's (of=0) or the teacher's (of=1) tensors, under equal names."""
    pairs = (("net", "teacher_net"), ("projector", "teacher_projector"))
    return {
        f"{pair[0]}.{key}": t.clone()
        for pair in pairs
        for key, t in getattr(method, pair[of]).state_dict().items()
    }


def equal(a, b):
    """Whether two such dictionaries are bitwise alike."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
