"""Adaptation by gradients: copies of the batch norms' affine parameters that learn, and go again.

What TENT and SAR have in common. Both descend as their papers do on ImageNet: SGD with momentum 0.9 and a
learning rate of 0.00025, on batches of 64 images.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from abra_wilds.methods.base import Method
from abra_wilds.tta.bn_state import buffers_put_back, hooked, refuse_one_value, tracking_norms

LR, MOMENTUM = 0.00025, 0.9


@contextmanager
def affine_copies(method: Method, frozen: Container[nn.Module] = ()) -> Iterator[list[Tensor]]:
    """Inside, batch norms have their batch's statistics, and copies of affine parameters, which it yields.

    Gradients reach those copies alone, and through the statistics, as in training mode. Without buffers a
    batch norm in evaluation mode takes its batch's statistics, so that modes stay as they are. Afterwards the
    method has its own parameters and buffers, untouched.

    Args:
        method: in evaluation mode.
        frozen: batch norms whose affine parameters stay.

    Raises:
        InputError: inside, for an input with one value a channel, which has no spread.
    """
    norms = tracking_norms(method)
    own = [(m, m.weight, m.bias) for m in norms if m.affine and m not in frozen]
    learning = [(p, p.requires_grad) for p in method.parameters()]
    with buffers_put_back(method), hooked([m.register_forward_pre_hook(_checked) for m in norms]):
        try:
            method.requires_grad_(False)
            for m in norms:
                m.running_mean = m.running_var = None
            for m, weight, bias in own:
                m.weight, m.bias = (nn.Parameter(t.detach().clone()) for t in (weight, bias))
            with torch.enable_grad():
                yield [t for m, _, _ in own for t in (m.weight, m.bias)]
        finally:
            for m, weight, bias in own:
                m.weight, m.bias = weight, bias
            for p, learns in learning:
                p.requires_grad_(learns)


def _checked(_: Any, args: tuple[Tensor, ...]) -> None:
    refuse_one_value(args[0])


class Descent:
    """Gradient descent with momentum: v <- 0.9 v + g, theta <- theta - lr v."""

    def __init__(self, tensors: Sequence[Tensor]):
        self.tensors = tensors
        self.velocities = [torch.zeros_like(t) for t in tensors]

    @torch.no_grad()
    def move(self, gradients: Sequence[Tensor]) -> None:
        """One step along the gradients, of the tensors' shapes."""
        for theta, v, g in zip(self.tensors, self.velocities, gradients, strict=True):
            v.mul_(MOMENTUM).add_(g)
            theta.sub_(LR * v)


def gradients(loss: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of a loss () with respect to each; zeros where the loss does not depend on it."""
    return torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)


def entropies(logits: Tensor) -> Tensor:
    """H = -sum_o p_o log p_o of each image, (N,), of logits (N, O)."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)
